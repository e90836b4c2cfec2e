"""Graceful shutdown on SIGINT and SIGTERM: at once, or after the current step while training."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType


SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds. Linux sends SIGTERM as each of a parent's threads ends, and a parent that was terminated
# together with its children terminates them once more.
DEBOUNCE = 1.0
PR_SET_PDEATHSIG = 1  # sys/prctl.h
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

deferred = False  # True: a signal waits for the next `exit_if_requested`
requested: int | None = None  # the signal that arrived
_installed = False


def install_handlers() -> None:
    """From here on both signals raise SystemExit, with exit code 130 or 143.

    A second signal, of either kind, ends the process immediately.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_exit_on_second_signal, args=(read,), daemon=True).start()
    global _installed
    _installed = True
    _set_handlers()


def _set_handlers() -> None:
    for number in SIGNALS:
        signal.signal(number, _handle)


def _handle(number: int, _: FrameType | None) -> None:
    global requested
    if requested is None:
        requested = number
        if not deferred:
            exit_if_requested()


def _exit_on_second_signal(pipe: int) -> None:
    """Python's handlers wait for a long operation of PyTorch's to end; this thread does not."""
    first: float | None = None
    while True:
        (number,) = os.read(pipe, 1)
        if number in SIGNALS:
            first = first or time.monotonic()
            if time.monotonic() - first > DEBOUNCE:
                os._exit(128 + number)


def defer() -> None:
    """Signals wait for `exit_if_requested` until `undefer`."""
    global deferred
    deferred = True
    if _installed:  # Lightning installs its own handler, which exits with 0
        _set_handlers()


def undefer() -> None:
    global deferred
    deferred = False


def exit_if_requested() -> None:
    """Raises SystemExit if a signal has arrived."""
    if requested is not None:
        raise SystemExit(128 + requested)


def terminate_with_parent() -> None:
    """In a new process: have it terminated when its parent ends, however that ends."""
    assert LIBC is not None
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
