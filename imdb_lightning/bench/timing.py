"""Interleaved timing, and the environment of the figures."""

from __future__ import annotations

import multiprocessing
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import lightning
import torch

from ..model.kernels.library import find_compiler
from ..runtime.provenance import processor_name


class Times(NamedTuple):
    """Milliseconds of one function, over the rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.least:.1f} to {self.most:.1f})"


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 3,
    timed: Callable[[Callable[[], object]], float] | None = None,
) -> dict[str, Times]:
    """Time each function once a round, so that whatever slows the machine down slows all of them.

    The order is shuffled in each round, since a function pays for the memory of the one before it.
    `timed` measures the seconds of one call; by default wall-clock time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    timed = timed or on_cpu
    order = random.Random(0)
    for number in range(warm_up + rounds):
        for name, function in order.sample([*functions.items()], len(functions)):
            taken = timed(function)
            if number >= warm_up:
                seconds[name].append(taken)
    return {
        name: Times(*(1e3 * f(taken) for f in (statistics.median, min, max)))
        for name, taken in seconds.items()
    }


def on_cpu(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def on_gpu(function: Callable[[], object], ahead: int = 0) -> float:
    """Seconds between two events in the GPU's queue, with the processor's time to fill it."""
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if ahead:
        torch.cuda._sleep(ahead)
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def on_gpu_alone(function: Callable[[], object]) -> float:
    """The same without the processor's time: the GPU sleeps until everything is queued."""
    return on_gpu(function, ahead=20_000_000)  # cycles, some 10 ms


class StepTimer(lightning.Callback):
    """Milliseconds a training step, over `steps` steps after `warm_up` others."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self.first, self.last = warm_up, warm_up + steps
        self.step_ms = self.started = 0.0

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.first:
            self.started = time.perf_counter()
        elif trainer.global_step == self.last:
            self.step_ms = (time.perf_counter() - self.started) / (self.last - self.first) * 1e3


class EpochTimer(lightning.Callback):
    """Seconds of `trainer.fit`, from the first step to the last."""

    def on_train_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.started


def own_process(prepare: Callable[..., None] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """A fresh process that first calls `prepare(*arguments)`, then what is submitted."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=prepare, initargs=arguments)


def product_of_matrices(size: int = 2048) -> tuple[Callable[[], object], float]:
    """A large matrix product, at the machine's peak rate, and its floating-point operations."""
    matrix = torch.randn(size, size)
    return lambda: matrix @ matrix, 2.0 * size**3


def environment() -> dict[str, Any]:
    """Processor, threads and versions, to which the figures apply."""
    return {
        "when": datetime.now().isoformat(timespec="seconds"),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "compiler": compiler(),
    }


def compiler() -> str | None:
    try:
        command = [*find_compiler(), "--version"]
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]
    except (RuntimeError, OSError, IndexError):
        return None


def table(head: list[str], rows: list[list[str]]) -> str:
    """Text columns: the first aligned left, numbers right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
