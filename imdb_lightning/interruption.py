"""Ctrl-C and SIGTERM: a run is left at once or, in training, after the step that is being taken."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType


SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds. Linux sends SIGTERM as each of a parent's threads ends, and a parent that was sent one
# together with its children sends them one more.
ONE_AND_THE_SAME = 1.0
PR_SET_PDEATHSIG = 1  # sys/prctl.h
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

deferred = False  # whether somebody will call `leave_if_asked` soon
asked: int | None = None  # the signal that came
_expected = False


def expect() -> None:
    """From here on both signals unwind what is running, with exit code 130 or 143.

    A second one, of either kind, ends the process on the spot.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_end_at_the_second, args=(read,), daemon=True).start()
    global _expected
    _expected = True
    _take_over()


def _take_over() -> None:
    for number in SIGNALS:
        signal.signal(number, _leave)


def _leave(number: int, _: FrameType | None) -> None:
    global asked
    if asked is None:
        asked = number
        if not deferred:
            leave_if_asked()


def _end_at_the_second(signals: int) -> None:
    """Python's handlers wait for a long operation of PyTorch's to end; this thread does not."""
    first: float | None = None
    while True:
        (number,) = os.read(signals, 1)
        if number in SIGNALS:
            first = first or time.monotonic()
            if time.monotonic() - first > ONE_AND_THE_SAME:
                os._exit(128 + number)


def defer(until_asked: bool) -> None:
    """Whether a signal waits for the next call of `leave_if_asked`."""
    global deferred
    deferred = until_asked
    if _expected and until_asked:  # Lightning has a handler of its own, which exits with 0
        _take_over()


def leave_if_asked() -> None:
    """Raises SystemExit where a signal came."""
    if asked is not None:
        raise SystemExit(128 + asked)


def end_with_parent() -> None:
    """In a new process: SIGTERM when the parent is gone, however that ends."""
    assert LIBC is not None
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
