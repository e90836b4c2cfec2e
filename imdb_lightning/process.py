"""What a process that trains sets once, before its first tensor."""

from __future__ import annotations

import ctypes
import os

import torch


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
KEEP = 1 << 30  # bytes


def prepare(runs_at_once: int = 1) -> None:
    """Settings of the whole process, without effect on what is computed but for denormals.

    `runs_at_once` processes share the machine: each takes its part of the processor's cores, but
    no more threads than OMP_NUM_THREADS says.
    """
    # Gradients that vanish over hundreds of steps end as denormal numbers, which a processor adds
    # many times more slowly. Threads take the flag over when they are made: before the first work.
    torch.set_flush_denormal(True)
    # Deterministic algorithms come with a fill of all new memory, which finds bugs and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    keep_memory()
    if runs_at_once > 1:
        torch.set_num_threads(min(torch.get_num_threads(), max(1, cores() // runs_at_once)))


def keep_memory() -> None:
    """Keep freed memory for the next step.

    glibc would give each large block back to the system and have it cleared page by page at the
    next step: a third of the time that nn.LSTM takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEEP)
        mallopt(M_TRIM_THRESHOLD, KEEP)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
