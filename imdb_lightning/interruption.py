"""Ctrl-C and SIGTERM: a run is left at once or, in training, after the step that is being taken."""

from __future__ import annotations

import ctypes
import signal
import sys
from types import FrameType


PR_SET_PDEATHSIG = 1  # sys/prctl.h
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

deferred = False  # whether somebody will call `leave_if_asked` soon
asked: int | None = None  # the signal that came in the meantime


def expect() -> None:
    """From here on both signals unwind what is running, with exit code 130 or 143."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def leave(number: int, _: FrameType | None) -> None:
    """A signal came: a second one, of either kind, ends the process on the spot."""
    global asked
    outlive_parent()  # it has sent this one, maybe, and would send more
    for known in (signal.SIGINT, signal.SIGTERM):
        signal.signal(known, signal.SIG_DFL)
    asked = number
    if not deferred:
        leave_if_asked()


def defer(until_asked: bool) -> None:
    """Whether a signal waits for the next call of `leave_if_asked`."""
    global deferred
    deferred = until_asked


def leave_if_asked() -> None:
    """Raises SystemExit where a signal came."""
    if asked is not None:
        raise SystemExit(128 + asked)


def end_with_parent() -> None:
    """In a new process: SIGTERM when the parent is gone, however that ends."""
    assert LIBC is not None
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def outlive_parent() -> None:
    """No SIGTERM when the parent ends. Linux sends one as each of the parent's threads ends."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, 0)
