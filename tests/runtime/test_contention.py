"""Beside busy processes threads do not spin, and nothing is computed differently.

pytest tests/runtime/test_contention.py; `bench contention` measures what it is for.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from imdb_lightning.runtime import contention, process
from tests.conftest import environment


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Linux says how busy the cores are"),
    pytest.mark.skipif(process.cores() < 2, reason="needs two cores"),
]

BUSY = """
import subprocess, sys, threading, time
import torch
from imdb_lightning.runtime import contention

def threads():
    return {thread.name for thread in threading.enumerate()}

torch.set_num_threads(2)
torch.manual_seed(0)
x, w = torch.randn(512, 512), torch.randn(512, 512)
alone = (x @ w).sum(0)
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(CORES)]
try:
    with contention.yield_to_others():
        assert "contention" in threads()
        started = time.monotonic()
        while "second team" not in threads() and time.monotonic() - started < 20:
            time.sleep(0.01)
        assert "second team" in threads()
        assert torch.equal((x @ w).sum(0), alone)
        assert torch.get_num_threads() == 2
finally:
    for process in busy:
        process.kill()
        process.wait()
assert threads() == {"MainThread"}, threads()
"""


def test_a_second_team_comes_with_busy_processes_and_goes_at_the_end(tmp_path: Path) -> None:
    code = BUSY.replace("CORES", str(process.cores()))
    variables = environment(tmp_path) | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variable", contention.OWN_SETTINGS)
def test_what_a_user_has_set_is_kept(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "passive")
    assert not contention._is_supported()


def test_the_cores_work_at_least_as_long_as_this_process() -> None:
    before, own = contention.busy_seconds(), time.process_time()
    sum(range(20_000_000))
    assert contention.busy_seconds() - before > time.process_time() - own - 0.1
