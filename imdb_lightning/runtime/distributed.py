"""One run on several processes (DDP): who they are, how they start, and what they agree on.

The processes are those of torchrun or of srun, or are started here by `spawn`. Numbers on which all
have to agree are exchanged on the CPU, whatever the device; a process that is killed is noticed by
all others in the next exchange.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from . import signals


T = TypeVar("T")

PACKAGE = "imdb_lightning"
# Seconds. A process may take so long from one exchange to the next, such as to read the reviews.
TIMEOUT = 1800
JOIN = 120  # for all processes to start
NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")  # variables of torchrun
GRACE = 20  # from the end of one process to SIGTERM for the others, and from there to SIGKILL
POLL = 0.2


class PeerError(Exception):
    """Another process of the run has ended."""


# Who they are


def is_launched(variables: Mapping[str, str] = os.environ) -> bool:
    """True if this process is one of several of a run."""
    if all(variables.get(name, "").isdecimal() for name in NUMBERS) and "MASTER_ADDR" in variables:
        return variables["WORLD_SIZE"] != "1"
    # Of a step of srun; the job script has SLURM_NTASKS too, and a shell is no run.
    in_step = "SLURM_STEP_ID" in variables and "SLURM_PTY_PORT" not in variables
    return in_step and int(variables.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def translate_slurm() -> None:
    """Set the variables of torchrun from those of srun, if it has started this process."""
    given = os.environ
    if "SLURM_STEP_ID" not in given or all(name in given for name in NUMBERS):
        return
    tasks, nodes = int(given["SLURM_STEP_NUM_TASKS"]), int(given["SLURM_STEP_NUM_NODES"])
    given.update(
        RANK=given["SLURM_PROCID"],
        LOCAL_RANK=given["SLURM_LOCALID"],
        GROUP_RANK=given["SLURM_NODEID"],
        WORLD_SIZE=str(tasks),
        LOCAL_WORLD_SIZE=str(tasks // nodes),
        MASTER_ADDR=first_node(given),
        MASTER_PORT=str(15_000 + int(given["SLURM_JOB_ID"]) % 10_000),
    )


def first_node(variables: Mapping[str, str]) -> str:
    """The name of the step's first node, or the address of srun's, if names lead nowhere."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    name = SLURMEnvironment.resolve_root_node_address(variables["SLURM_STEP_NODELIST"])
    try:
        socket.gethostbyname(name)
        return name
    except OSError:
        return variables.get("SLURM_LAUNCH_NODE_IPADDR", name)


def connect() -> None:
    """Join the other processes. Raises PeerError."""
    import torch
    from torch import distributed

    translate_slurm()
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store = None
    try:
        if "TORCHELASTIC_USE_AGENT_STORE" not in os.environ:  # torchrun has its own
            store = distributed.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                count,
                number == 0,
                timedelta(seconds=JOIN),
            )
        where: dict[str, Any] = (
            {"store": store, "rank": number, "world_size": count} if store else {}
        )
        distributed.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT), **where)
    except (RuntimeError, ValueError) as error:
        raise PeerError(
            f"process {number} of {count} cannot join the others: {first_line(error)}"
        ) from None
    os.environ.setdefault("TORCHELASTIC_RUN_ID", "none")  # so Lightning takes these variables


def is_connected() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_initialized()


def rank() -> int:
    """The number of this process, 0 the first."""
    if not is_connected():
        return 0
    import torch

    return torch.distributed.get_rank()


def world_size() -> int:
    """The processes of the run."""
    if not is_connected():
        return 1
    import torch

    return torch.distributed.get_world_size()


# What they agree on. All processes must call these at the same point.


def exchange(function: Callable[[], T]) -> T:
    """Raises PeerError if another process has ended."""
    try:
        return function()
    except RuntimeError as error:
        if is_peer_error(error):
            raise PeerError(f"another process of the run has ended ({first_line(error)})") from None
        raise


def is_peer_error(error: BaseException) -> bool:
    """True for what gloo and NCCL raise if another process has ended."""
    if isinstance(error, PeerError):
        return True
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    return bool(re.search("gloo/transport|closed by peer|reset by peer|remote proc", str(error)))


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def maximum(*numbers: float) -> list[float]:
    """The largest that a process has, of each number."""
    if world_size() == 1:
        return [*numbers]
    import torch

    values = torch.tensor(numbers, dtype=torch.float64)
    exchange(lambda: torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX))
    return values.tolist()


def gather(thing: T) -> list[T]:
    """The thing of each process."""
    if world_size() == 1:
        return [thing]
    import torch

    found: list[Any] = [None] * world_size()
    exchange(lambda: torch.distributed.all_gather_object(found, thing))
    return found


def from_first(thing: T) -> T:
    """The thing of the first process."""
    if world_size() == 1:
        return thing
    import torch

    things = [thing]
    exchange(lambda: torch.distributed.broadcast_object_list(things, device=torch.device("cpu")))
    return things[0]


def agree_on_signal() -> bool:
    """True if a signal has reached one of the processes; then it has reached all."""
    (number,) = maximum(signals.requested or 0)
    if number:
        signals.requested = signals.requested or int(number)
    return bool(number)


# How they start


def spawn(count: int, arguments: Sequence[str]) -> int:
    """Run `python -m imdb_lightning ARGUMENTS` in `count` processes; returns the exit code.

    If one of them ends with an error the others end too, at the latest after twice GRACE.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    from .process import cores  # late: it imports torch

    given = os.environ.get("OMP_NUM_THREADS", "")  # of the run
    threads = max(1, min(cores(), int(given) if given.isdigit() else cores()) // count)
    common = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", PACKAGE, *arguments],
            env=os.environ | common | {"RANK": str(number), "LOCAL_RANK": str(number)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process, which passes it on
            preexec_fn=signals.terminate_with_parent if sys.platform == "linux" else None,
        )
        for number in range(count)
    ]
    try:
        return wait(processes)
    except (KeyboardInterrupt, SystemExit) as end:  # a signal
        code = getattr(end, "code", None) or 130
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM if code == 143 else signal.SIGINT)
        wait(processes)
        return int(code)


def wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Until all have ended; the exit code of the first that ended with an error, else 0."""
    code, since, warned = 0, 0.0, False
    while True:
        codes = [process.poll() for process in processes]
        if not code and any(codes):
            number = next(i for i, c in enumerate(codes) if c)
            code, since = codes[number] or 0, time.monotonic()
            if code < 0:
                name = signal.Signals(-code).name
                print(f"{PACKAGE}: process {number} was killed by {name}", file=sys.stderr)
        if None not in codes:
            return 1 if code < 0 else code
        if code:
            waited = time.monotonic() - since
            for process in processes:
                if process.poll() is None and waited > 2 * GRACE:
                    process.kill()
                elif process.poll() is None and waited > GRACE and not warned:
                    process.terminate()
            warned = waited > GRACE
        time.sleep(POLL)
