"""One run on one process and on two, the exchange of gradients, and a model for more."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .timing import table


CONDITIONS = {  # processes, threads of each
    "1 process, 1 thread": (1, 1),
    "1 process, 2 threads": (1, 2),
    "2 processes, 1 thread each": (2, 1),
}
BATCHES = (64, 32, 16, 8)
REVIEWS = (
    "data=synthetic data.train_size=4800 data.val_size=64 data.test_size=64 trainer=cpu".split()
)
EPOCHS = 3  # the first one warms up
MEGABYTE = 1_000_000


def processes(overrides: Sequence[str], rounds: int) -> dict[str, Any]:
    """Print and return seconds of an epoch and of an exchange, measured and by the model.

    The model: a step on p processes takes the seconds of one process for a p-th of the batch, and
    2 (p - 1) / p of the bytes of the gradient at the bandwidth that two processes have here.
    """
    seconds: dict[str, list[float]] = {name: [] for name in CONDITIONS}
    by_batch: dict[int, list[float]] = {size: [] for size in BATCHES}
    steps = parameters = 0
    for _ in range(rounds):
        tasks: list[Any] = [*CONDITIONS, *BATCHES]
        random.shuffle(tasks)
        for task in tasks:
            if task in CONDITIONS:
                metrics = trained(overrides, *CONDITIONS[task])
                seconds[task].append(epoch_seconds(metrics))
                steps, parameters = metrics["steps"] // EPOCHS, metrics["parameters"]
            else:
                metrics = trained([*overrides, f"data.batch_size={task}"], 1, 1)
                by_batch[task].append(epoch_seconds(metrics) / (metrics["steps"] // EPOCHS))
    size = 4 * parameters
    exchanged = exchange_seconds(parameters)
    step = {batch: statistics.median(times) for batch, times in by_batch.items()}
    bandwidth = size / exchanged  # of two processes, each of which sends and receives all of it
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        rows.append([name, f"{median:.2f}", f"{1000 * median / steps:.1f}"])
    print(f"\n{steps} steps an epoch, {parameters:,} parameters; medians of {rounds}")
    print(table(["measured", "epoch, s", "step, ms"], rows))
    print(f"\n{size / MEGABYTE:.1f} MB are exchanged in {1000 * exchanged:.1f} ms by two processes")
    modelled = {}
    for count, batch in zip((1, 2, 4, 8), BATCHES, strict=True):
        exchange = 2 * (count - 1) / count * size / bandwidth
        modelled[count] = {"compute": step[batch], "exchange": exchange}
    first = modelled[1]["compute"]
    print()
    print(
        table(
            ["processes, by the model", "compute, ms", "exchange, ms", "faster by"],
            [
                [
                    str(count),
                    f"{1000 * parts['compute']:.1f}",
                    f"{1000 * parts['exchange']:.1f}",
                    f"{first / sum(parts.values()):.2f}x",
                ]
                for count, parts in modelled.items()
            ],
        )
    )
    return {
        "overrides": [*overrides],
        "steps": steps,
        "parameters": parameters,
        "seconds": seconds,
        "step_by_batch": by_batch,
        "exchange": exchanged,
        "model": modelled,
    }


def epoch_seconds(metrics: dict[str, Any]) -> float:
    return statistics.median(epoch["seconds"] for epoch in metrics["epochs"][1:])


def trained(overrides: Sequence[str], count: int, threads: int) -> dict[str, Any]:
    """metrics.json of a run on `count` processes."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*REVIEWS, f"trainer.max_epochs={EPOCHS}", f"trainer.devices={count}", *overrides]
        done = subprocess.run(
            [sys.executable, "-m", "imdb_lightning", *words, "hydra.run.dir=run"],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(done.stderr or done.stdout)
        return json.loads(Path(folder, "run", "metrics.json").read_text())


def exchange_seconds(numbers: int, rounds: int = 50) -> float:
    """Median seconds in which two processes add `numbers` float32 by gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    queue: Any = spawn.Queue()
    workers = [
        spawn.Process(target=exchange, args=(rank, port, numbers, rounds, queue))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    times = queue.get()
    for worker in workers:
        worker.join()
    return statistics.median(times)


def exchange(rank: int, port: int, numbers: int, rounds: int, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    flat = torch.ones(numbers)
    times = []
    for _ in range(rounds + 5):
        torch.distributed.barrier()
        started = time.perf_counter()
        torch.distributed.all_reduce(flat)
        times.append(time.perf_counter() - started)
        flat.fill_(1.0)
    if rank == 0:
        queue.put(times[5:])
    torch.distributed.destroy_process_group()
