"""Threads that wait for one another: they spin while a run is alone, and sleep beside others.

OpenMP's threads wait thousands of times in a step. Alone, spinning is right: most waits are shorter
than it takes to wake a thread. Beside busy processes a thread that spins keeps its core from the
very thread that it waits for, and a step may take ten times as long. GNU's OpenMP, which PyTorch
uses on Linux, decides at each wait: it spins 300,000 times, or 100 times while the process has more
threads than cores. So beside others, a second team of threads is kept, which does nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


INTERVAL = 0.2  # seconds between two looks
SHARE = 0.25  # cores that others use before it is contention
CALM = 3  # looks without contention until threads spin again
PARALLEL = 1 << 17  # numbers that PyTorch spreads over all threads
OWN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # of a user, which are kept
STAT = Path("/proc/stat")
IDLE = (3, 4)  # columns of STAT: idle, and idle while a disk is waited for
GUEST = slice(8, None)  # columns whose time others of the line contain


@contextmanager
def yield_to_others() -> Iterator[None]:
    """Within, threads of this process do not spin while other processes need the cores.

    No number is computed differently. Does nothing with one thread, without GNU's OpenMP, or where
    the user has set how it waits.
    """
    if torch.get_num_threads() == 1 or not _is_supported():
        yield
        return
    stop = threading.Event()
    monitor = threading.Thread(target=_watch, args=(stop,), name="contention", daemon=True)
    monitor.start()
    try:
        yield
    finally:
        stop.set()
        monitor.join()


def _is_supported() -> bool:
    """Whether this process has GNU's OpenMP, and Linux says how busy the cores are."""
    if sys.platform != "linux" or any(os.environ.get(name) for name in OWN_SETTINGS):
        return False
    try:
        busy_seconds()
        return "libgomp" in Path("/proc/self/maps").read_text("utf-8", "replace")
    except (OSError, ValueError, IndexError):
        return False


def busy_seconds() -> float:
    """Seconds for which the cores that this process may use have worked, for anybody.

    Raises OSError, ValueError or IndexError if Linux does not say.
    """
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for line in STAT.read_text("ascii").splitlines():
        name, *columns = line.split()
        if name in mine:
            del columns[GUEST]
            ticks += sum(int(c) for n, c in enumerate(columns) if n not in IDLE)
    return ticks / os.sysconf("SC_CLK_TCK")


def _watch(stop: threading.Event) -> None:
    team: _SecondTeam | None = None
    calm = 0
    spare = len(os.sched_getaffinity(0)) - torch.get_num_threads()
    then, before = time.monotonic(), busy_seconds() - time.process_time()
    while not stop.wait(INTERVAL):
        now, others = time.monotonic(), busy_seconds() - time.process_time()
        cores = (others - before) / (now - then)
        then, before = now, others
        calm = 0 if cores > spare + SHARE else calm + 1
        if team is None and calm == 0:
            team = _SecondTeam()
        elif team is not None and calm >= CALM:
            team.close()
            team = None
    if team is not None:
        team.close()


class _SecondTeam:
    """More threads than cores, while it is there: a thread that has its own OpenMP threads."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._wait, name="second team", daemon=True)
        self.thread.start()

    def _wait(self) -> None:
        torch.ones(PARALLEL).add_(1)  # OpenMP creates the team when it first has work for it
        self.end.wait()

    def close(self) -> None:
        """The team ends with its thread."""
        self.end.set()
        self.thread.join()
