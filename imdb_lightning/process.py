"""What a process that trains sets once, before its first tensor."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG")  # Lightning's
KEEP, LESS = 1 << 30, 32 << 20  # bytes


def prepare(keep: bool = True) -> None:
    """Settings of the whole process, without effect on what is computed but for denormals.

    `keep=False` leaves out `keep_memory`, for comparison.
    """
    # Gradients that vanish over hundreds of steps end as denormal numbers, which a processor adds
    # many times more slowly. Threads take the flag over when they are made: before the first work.
    torch.set_flush_denormal(True)
    # Deterministic algorithms come with a fill of all new memory, which finds bugs and costs time.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  untyped
    if keep:
        keep_memory()


def keep_memory() -> None:
    """Keep freed memory for the next step.

    glibc would give each large block back to the system and have it cleared page by page at the
    next step: a third of the time that nn.LSTM takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # Before 2.35 glibc takes no more than 32 MiB, and a refusal would leave all the others worse.
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, KEEP) or mallopt(M_MMAP_THRESHOLD, LESS)):
        mallopt(M_TRIM_THRESHOLD, KEEP)


def processor() -> str:
    """Its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, bytes; None where the system does not say."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def restored() -> Iterator[None]:
    """Puts back at the end what a run sets for the whole process, random numbers included."""
    variables = {name: os.environ.get(name) for name in VARIABLES}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.deterministic, torch.get_default_dtype(), torch.get_num_threads()
    try:
        yield
    finally:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        cudnn.benchmark, cudnn.deterministic = flags[:2]
        torch.set_default_dtype(flags[2])
        torch.set_num_threads(flags[3])


def share_cores(runs_at_once: int) -> None:
    """No more threads than this run's part of the cores: two runs on all cores wait by turns.

    Fewer where OMP_NUM_THREADS says so.
    """
    threads = max(1, cores() // runs_at_once)
    if threads < torch.get_num_threads():
        torch.set_num_threads(threads)


def runs_at_once(launcher: Mapping[str, Any], runs: int) -> int:
    """Runs of a grid of `runs` that Hydra's launcher has going at a time on one machine.

    `n_jobs` says so (joblib: -1 is one for each core); without it a launcher other than Hydra's own
    starts them all, and each is given one core, unless a cluster gives each run its own.
    """
    target = str(launcher.get("_target_"))
    if target.endswith("BasicLauncher") or "slurm" in target.lower():
        return 1
    n_jobs = launcher.get("n_jobs")
    return min(runs, n_jobs if isinstance(n_jobs, int) and n_jobs > 0 else cores())


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
