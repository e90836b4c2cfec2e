"""Settings of a process that trains or predicts: denormals, memory, threads."""

from __future__ import annotations

import ctypes
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
# What Lightning sets in the environment.
LIGHTNING_VARIABLES = (
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG"),
    *("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_TRACKING_URI"),  # of loggers
    *("WANDB_SILENT", "WANDB_MODE", "WANDB_SERVICE"),
)
MMAP_LIMIT, OLD_MMAP_LIMIT = 1 << 30, 32 << 20  # bytes


def configure(keep_freed_memory: bool = True) -> None:
    """Once in a process, before its first tensor; only denormal numbers are computed differently.

    `keep_freed_memory=False` omits `tune_malloc`, for comparison.
    """
    # Gradients that vanish over hundreds of steps become denormal numbers, which are many times
    # slower to add. A thread inherits the flag when it is created: set it before the first work.
    torch.set_flush_denormal(True)
    # Deterministic algorithms fill all new memory, which finds bugs and takes time.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  untyped
    if keep_freed_memory:
        tune_malloc()


def ignore_lightning_warnings() -> None:
    """Lightning's advice that does not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # reviews are already encoded: workers cost time
        ".*GPU available but not used.*",  # trainer=cpu is a choice
        ".*`srun` command is available.*",  # a run is one process, with or without srun
        ".*Experiment logs directory.*",  # of CSVLogger: it is the run's, and not emptied
        ".*smaller than the logging interval.*",  # a short epoch has no scalars by step
        ".*sync_dist=True.*",  # all processes log the same numbers, which are those of all reviews
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6.6 with torch 2.13 (2026-11)
    ):
        warnings.filterwarnings("ignore", message)


def tune_malloc() -> None:
    """Keep freed memory for the next step.

    glibc would return each large block to the system, which clears it page by page in the next
    step: a third of the time of nn.LSTM.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # glibc before 2.35 accepts at most 32 MiB; after a refusal the other setting would do harm.
    if mallopt is not None and (
        mallopt(M_MMAP_THRESHOLD, MMAP_LIMIT) or mallopt(M_MMAP_THRESHOLD, OLD_MMAP_LIMIT)
    ):
        mallopt(M_TRIM_THRESHOLD, MMAP_LIMIT)


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """On exit, restores what a run sets for the whole process, random state included."""
    variables = {name: os.environ.get(name) for name in LIGHTNING_VARIABLES}
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


def limit_threads(runs_at_once: int) -> None:
    """Use at most this run's share of the cores: two runs on all cores take turns.

    OMP_NUM_THREADS may set fewer.
    """
    threads = max(1, cores() // runs_at_once)
    if threads < torch.get_num_threads():
        torch.set_num_threads(threads)


def runs_at_once(launcher: Mapping[str, Any], runs: int) -> int:
    """Runs of a grid of `runs` that Hydra's launcher keeps going at a time on one machine.

    `n_jobs` if the launcher has it (joblib: -1 is one for each core). Without it a launcher other
    than Hydra's basic one starts all runs, each with one core, unless a cluster assigns cores.
    """
    target = str(launcher.get("_target_"))
    if target.endswith("BasicLauncher") or "slurm" in target.lower():
        return 1
    n_jobs = launcher.get("n_jobs")
    return min(runs, n_jobs if isinstance(n_jobs, int) and n_jobs > 0 else cores())


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
