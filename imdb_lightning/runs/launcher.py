"""Hydra's launcher `local_pool`: a process for each run of a grid, several at a time.

A run that raises, is killed or hangs affects no other. Its metrics.json records why it ended.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from tqdm import tqdm

from ..config.schema import devices_of
from ..config.text import one_line, quote
from ..runtime import signals
from . import sweep
from .live_line import State, labels, live_line, time_left
from .run import Run


BAR_FORMAT = "{n_fmt}/{total_fmt} runs |{bar:10}| {elapsed}{postfix}"
POLL = 0.3  # seconds
GRACE = 8  # seconds from SIGTERM, on which a run saves a checkpoint, to SIGKILL
NOT_FORWARDED = (
    "hydra.mode",
    "hydra.run.",
    "hydra.sweep",
    "hydra.launcher",
    "hydra/launcher",
    "hydra/sweep",
)


class Job:
    """One run of the grid and, once it is started, its process."""

    def __init__(self, config: DictConfig, overrides: Sequence[str], label: str) -> None:
        self.config = config
        self.overrides = overrides
        self.path = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()
        self.label = label or self.path.name
        self.result = JobReturn(overrides=overrides, cfg=config, status=JobStatus.COMPLETED)
        self.process: subprocess.Popen[bytes] | None = None
        self.max_epochs: int = config.trainer.max_epochs
        self.epochs = self.first = 0  # completed now, and when it was started
        self.estimate: float | None = None  # seconds from start to end, by its epochs
        self.accuracy: float | None = None  # on val, of the latest epoch
        self.started: float | None = None
        self.console = self.path / "console.log"
        self.deadline: float | None = None  # for SIGKILL
        self.reason = ""  # why it was killed

    @property
    def uses_gpu(self) -> bool:
        return self.config.trainer.accelerator != "cpu"

    @property
    def devices(self) -> int:
        """Its processes on a machine."""
        return devices_of(self.config)

    def start(self, arguments: Sequence[str], variables: dict[str, str]) -> None:
        self.started = time.monotonic()
        self.path.mkdir(parents=True, exist_ok=True)
        resumed = sweep.is_resumable(self.path, self.config)
        self.epochs = self.first = Run(self.path).completed_epochs if resumed else 0
        key = "resume" if resumed else "hydra.run.dir"
        command = [sys.executable, "-m", "imdb_lightning", *arguments, *self.overrides]
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                [*command, f"{key}={quote(str(self.path))}", "hydra.mode=RUN"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=os.environ | variables,
                start_new_session=True,  # Ctrl-C reaches the parent, which terminates its runs
                preexec_fn=signals.terminate_with_parent if sys.platform == "linux" else None,
            )

    @property
    def seconds(self) -> float:
        return 0.0 if self.started is None else time.monotonic() - self.started

    def update(self) -> float | None:
        """Read the epochs so far; the estimate, renewed with every epoch."""
        epochs = Run(self.path).completed_epochs
        if self.epochs < epochs <= self.max_epochs:
            self.epochs = epochs
            self.accuracy = Run(self.path).latest_accuracy
            self.estimate = self.seconds * (self.max_epochs - self.first) / (epochs - self.first)
        return self.estimate

    def kill(self, reason: str) -> None:
        """SIGTERM now; after the grace period SIGKILL, to it and all that it started."""
        assert self.process is not None
        if self.deadline is None:
            self.reason = reason
            self.deadline = time.monotonic() + GRACE
            self.process.terminate()
        elif time.monotonic() > self.deadline:
            os.killpg(self.process.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code; None while it runs. 1 if it could not be started."""
        return 1 if self.process is None else self.process.poll()

    def finish(self, code: int) -> str:
        """A line about the run, whose process has exited. Records a failure in its directory."""
        run, seconds = Run(self.path), self.seconds
        if sweep.is_done(self.path, self.config):
            self.console.unlink(missing_ok=True)  # train.log has it all
            self.result.return_value = accuracy = run.val_accuracy
            result = "done" if math.isnan(accuracy) else f"val accuracy {accuracy:.4f}"
            return f"{result}, {seconds:.0f} s"
        if run.status == "pruned":
            self.console.unlink(missing_ok=True)
            self.result.return_value = accuracy = run.val_accuracy
            epochs = run.completed_epochs
            return f"pruned after epoch {epochs}, val accuracy {accuracy:.4f}, {seconds:.0f} s"
        self.result.return_value = float("nan")
        if self.reason:
            run.mark_failed(self.reason, killed=True)
        elif code < 0:
            name = signal.Signals(-code).name
            run.mark_failed(f"killed by {name} after {seconds:.0f} s", killed=True)
        else:
            text = ""
            if self.console.exists():
                text = self.console.read_text("utf-8", "replace").strip()
            last = (text.splitlines() or ["no message"])[-1]
            run.mark_failed(f"exit code {code}: {last}", killed=code in (130, 143))
        return f"failed: {sweep.failure_reason(run)}"


class Queue(Protocol):
    """The jobs that a pool runs."""

    @property
    def total(self) -> int:
        """Jobs, with those that are done."""

    @property
    def finished(self) -> int:
        """Those that have ended."""

    @property
    def at_once(self) -> int:
        """The most that may run at a time."""

    @property
    def uses_gpu(self) -> bool:
        """True if one of them may use a GPU."""

    @property
    def devices(self) -> int:
        """The most processes of one of them."""

    def next(self) -> Job | None:
        """A job to start; None if there is none now, and at the end."""

    def end(self, job: Job) -> None:
        """The job's process has exited."""


class Batch:
    """The runs of a grid: those that are not done, in their order."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.waiting: deque[Job] = deque()
        for job in jobs:
            if sweep.is_done(job.path, job.config):
                job.result.return_value = Run(job.path).val_accuracy
            else:
                self.waiting.append(job)
        self.total = len(jobs)
        self.at_once = len(self.waiting)
        self.finished = len(jobs) - len(self.waiting)
        self.uses_gpu = any(job.uses_gpu for job in self.waiting)
        self.devices = max((job.devices for job in self.waiting), default=1)

    def next(self) -> Job | None:
        return self.waiting.popleft() if self.waiting else None

    def end(self, job: Job) -> None:
        self.finished += 1


class Pool(Launcher):
    """A launcher that runs a queue of jobs, each as `python -m imdb_lightning ...`."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.load = hydra_context.config_loader.load_sweep_config
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        batch = Batch(
            [
                self.job(texts, label)
                for texts, label in zip(job_overrides, labels(job_overrides), strict=True)
            ]
        )
        self.run(batch)
        return [job.result for job in batch.jobs]

    def job(self, overrides: Sequence[str], label: str) -> Job:
        """A job, whose configuration Hydra composes."""
        return Job(self.load(self.config, list(overrides)), overrides, label)

    def arguments(self) -> list[str]:
        """The arguments of a run's command line that are not its overrides."""
        sources = self.config.hydra.runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
        overrides = [
            text for text in self.config.hydra.overrides.hydra if not text.startswith(NOT_FORWARDED)
        ]
        return [*(f"--config-dir={folder}" for folder in folders), *overrides]

    def start_logging(self) -> None:
        """As Hydra does it for a sweep."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)

    def is_running(self, path: Path) -> bool:
        """True if an earlier command has started the run in `path`, and it still runs."""
        return False

    @abstractmethod
    def run(self, queue: Queue) -> None:
        """Run the jobs of `queue` until it has no more."""


class LocalPool(Pool):
    """`n_jobs` runs at a time, `timeout` seconds each.

    Without `n_jobs` one for each GPU, or for each core; the runs share the cores.
    """

    def __init__(self, n_jobs: int | None, timeout: float | None) -> None:
        self.n_jobs = n_jobs
        self.timeout = timeout

    def run(self, queue: Queue) -> None:
        from ..runtime.process import cores  # late: it imports torch, which takes seconds

        self.start_logging()
        gpus = visible_gpus() if queue.uses_gpu else []
        each = queue.devices  # processes of a run, each with a GPU if there are any
        fitting = max(1, (len(gpus) or cores()) // each)
        slots = max(1, min(self.n_jobs or fitting, queue.at_once))
        threads = max(1, cores() // slots)
        running: dict[int, Job] = {}
        taken: list[float] = []  # seconds of the runs that are done
        bar = progress_bar(queue)
        try:
            with bar:
                while True:
                    for slot in sorted(set(range(slots)) - set(running)):
                        job = queue.next()
                        if job is None:
                            break
                        running[slot] = job
                        try:
                            own = gpus_of_slot(gpus, slot, each) if job.uses_gpu else []
                            variables = job_environment(threads, own, bool(gpus))
                            job.start(self.arguments(), variables)
                        except OSError as error:  # such as a full disk: the others continue
                            job.reason = f"could not be started: {error}"
                    if not running:
                        break
                    for slot, job in list(running.items()):
                        code = job.poll()
                        if code is not None:
                            del running[slot]
                            try:
                                how = job.finish(code)
                            except Exception as error:  # noqa: BLE001  any error concerns this run alone
                                how = f"failed: {one_line(error)}"
                            queue.end(job)
                            bar.update(queue.finished - bar.n)
                            if sweep.is_done(job.path, job.config):
                                taken.append(job.seconds)
                            bar.write(f"[{queue.finished}/{queue.total}] {job.label}: {how}")
                        elif self.timeout and job.seconds > self.timeout:
                            job.kill(f"killed after {self.timeout:g} s (hydra.launcher.timeout)")
                    if not bar.disable:
                        waiting = queue.total - queue.finished - len(running)
                        show(bar, taken, [*running.values()], waiting, slots)
                    time.sleep(POLL)
        finally:  # Ctrl-C and SIGTERM
            while running:
                for slot, job in list(running.items()):
                    if job.poll() is None:
                        job.kill("")
                    else:
                        del running[slot]
                time.sleep(0.1)


def progress_bar(queue: Queue) -> tqdm:
    return tqdm(
        total=queue.total,
        initial=queue.finished,
        bar_format=BAR_FORMAT,
        dynamic_ncols=True,
        disable=None,
    )


def show(
    bar: tqdm, finished: Sequence[float], running: Sequence[Job], waiting: int, slots: int
) -> None:
    """Write the live line, as wide as the terminal."""
    left = time_left(finished, [(job.seconds, job.update()) for job in running], waiting, slots)
    states = [State(job.label, job.epochs, job.max_epochs, job.accuracy) for job in running]
    columns = bar.format_dict["ncols"] or 80
    used = len(str(bar).partition(", ")[0]) + len(", ")
    bar.set_postfix_str(live_line(states, left, columns - used - 1))


def gpus_of_slot(gpus: Sequence[str], slot: int, each: int) -> list[str]:
    """The GPUs of the run in a slot: `each` of them, shared only if there are too few."""
    return [gpus[(slot * each + number) % len(gpus)] for number in range(min(each, len(gpus)))]


def job_environment(threads: int, gpus: Sequence[str], hide: bool) -> dict[str, str]:
    """The environment variables that give a run its share of the cores, and these GPUs.

    `hide` the others from it.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    variables = {"OMP_NUM_THREADS": str(min(threads, int(given)) if given.isdigit() else threads)}
    if hide:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return variables


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # takes seconds: only if a run may use a GPU

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]
