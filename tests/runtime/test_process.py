"""What a process sets before it trains, and how the runs of a grid share the cores.

pytest tests/runtime/test_process.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from imdb_lightning.runtime import process
from tests.conftest import TINY, command, environment


LAUNCHERS = [
    ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 1),
    ({"_target_": "hydra_plugins.x.JoblibLauncher", "n_jobs": 3}, 3),
    ({"_target_": "hydra_plugins.x.JoblibLauncher", "n_jobs": -1}, 8),
    ({"_target_": "hydra_plugins.x.LocalLauncher"}, 8),
    ({"_target_": "hydra_plugins.x.SlurmLauncher"}, 1),
]


@pytest.mark.parametrize(("launcher", "runs"), LAUNCHERS)
def test_how_many_runs_go_at_once(
    launcher: dict[str, object], runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "cores", lambda: 8)
    assert process.runs_at_once(launcher, 20) == runs
    assert process.runs_at_once(launcher, 2) == min(runs, 2)


@pytest.mark.parametrize(("runs", "threads"), [(1, 3), (2, 3), (3, 2), (8, 1), (20, 1)])
def test_threads_are_capped_and_never_raised(
    runs: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "cores", lambda: 8)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        process.limit_threads(runs)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


HALVES = """
import torch
from imdb_lightning.runtime import process
process.configure()
least = torch.full((1_000_000,), torch.finfo(torch.float32).tiny)
assert torch.get_num_threads() == 2
assert not (least * 0.5).any()
"""


def test_denormals_are_zero_in_all_threads(tmp_path: Path) -> None:
    variables = environment(tmp_path) | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", HALVES], env=variables, check=True)


@pytest.mark.slow
@pytest.mark.skipif(process.cores() < 2, reason="needs two cores")
def test_two_runs_of_a_parallel_grid_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(process.cores()))  # what joblib would set itself
    monkeypatch.setattr("tests.conftest.THREADS", str(process.cores()))
    grid = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1"]
    done = command(tmp_path, *grid, *TINY, "model=custom_lstm")
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    runs = [json.loads(file.read_text("utf-8")) for file in sweep.glob("*/metrics.json")]
    assert len(runs) == 2
    share = process.cores() // 2
    devices = {run["device"] for run in runs}
    assert devices == {f"cpu ({share} thread{'s' * (share > 1)})"}
    assert os.environ["OMP_NUM_THREADS"] == str(process.cores())
