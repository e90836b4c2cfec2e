"""A save that is killed between any two system calls leaves the old checkpoint or the new one.

pytest tests/reliability/test_torn.py (Linux on x86 or ARM, where a process may be traced)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from imdb_lightning.runs import checkpoint, storage
from tests.conftest import not_tested

from .processes import SERVER


TRACEME, SYSCALL = 0, 24  # sys/ptrace.h: PTRACE_TRACEME, PTRACE_SYSCALL

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ptrace is Linux's")


def contents(step: int) -> dict:
    """Everything that `checkpoint.read` requires."""
    weights = torch.full((64, 64), float(step))
    return {key: {} for key in checkpoint.KEYS} | {"state_dict": {"weights": weights}}


def save(file: Path, step: int) -> None:
    checkpoint.ChecksummedCheckpointIO().save_checkpoint(contents(step), file)


def step_of(file: Path) -> int:
    return int(checkpoint.read(file)["state_dict"]["weights"].mean().item())


def killed_after(stops: int, file: Path) -> bool:
    """Save step 2 in a child that is killed at this stop: each system call has two.

    False if it ended before.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        if libc.ptrace(TRACEME, 0, 0, 0) != 0:
            os._exit(77)
        os.kill(os.getpid(), signal.SIGSTOP)
        save(file, 2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        os._exit(77)
    for _ in range(stops):
        libc.ptrace(SYSCALL, child, 0, 0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def every_stop(folder: Path, there_is_one: bool) -> None:
    """In a process of one thread, which can fork."""
    torch.set_num_threads(1)
    file = folder / "last.ckpt"
    report = (folder.parent / "report.txt").open("w")
    seen: list[int] = []
    stops = 0
    is_running = True
    while is_running:
        stops += 1
        file.unlink(missing_ok=True)
        if there_is_one:
            save(file, 1)
        is_running = killed_after(stops, file)
        seen.append(step_of(file) if file.exists() else 0)
        names = {path.name for path in folder.iterdir()} - {"last.ckpt"}
        assert all(name.endswith(".tmp") for name in names), names
        storage.remove_stale_temp_files(folder)
        assert [path.name for path in folder.iterdir()] in ([], ["last.ckpt"])
    print(stops, *seen, file=report, flush=True)


@pytest.mark.slow
@pytest.mark.parametrize("there_is_one", [True, False], ids=["over an old one", "the first one"])
def test_a_killed_save_leaves_a_complete_checkpoint(tmp_path: Path, there_is_one: bool) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    process = SERVER.Process(target=every_stop, args=(folder, there_is_one))
    process.start()
    process.join(240)
    if process.exitcode == 77:
        not_tested("a save killed at every system call: no process may be traced")
    assert process.exitcode == 0
    stops, *seen = map(int, (tmp_path / "report.txt").read_text("utf-8").split())
    assert stops > 20, "a save has more system calls than that"
    old = int(there_is_one)
    change = seen.index(2)
    assert set(seen[:change]) == {old} and set(seen[change:]) == {2}  # and never anything between
