"""Grids in processes of their own: one that fails stops no other, and nothing runs twice.

pytest tests/runs/test_launcher.py; pytest -m slow tests/runs/test_launcher.py runs grids.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from imdb_lightning.runs import launcher
from imdb_lightning.runs.run import Run
from tests.conftest import TINY, command, started


CELL = '''
import os, signal, time
import torch
from torch.nn.functional import linear
from imdb_lightning import Cell

class Faulty(Cell):
    """Does what `fault` says, as long as there is a file "faults" in the working directory."""

    def __init__(self, input_size, hidden_size, fault=""):
        super().__init__(input_size, hidden_size, gates=1)
        self.fault = fault

    def forward(self, x_BI, state):
        if os.path.exists("faults") and x_BI.shape[1] == 8:
            if self.fault == "raise":
                raise ValueError("the cell gave up")
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hang":
                time.sleep(1000)
        (h_BH,) = state
        x = linear(x_BI, self.weight_ih, self.bias_ih)
        return (torch.tanh(x + linear(h_BH, self.weight_hh, self.bias_hh)),)
'''
FAULTY = [
    *(text for text in TINY if not text.startswith("model.")),
    *"model=custom_rnn model.implementation=loop model.cell._target_=my_cells.Faulty".split(),
    *"model.embedding_size=8 model.hidden_size=4 trainer.max_epochs=1".split(),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder, with = and 'quotes'"
    folder.mkdir()
    (folder / "my_cells.py").write_text(CELL)
    return folder


def the_sweep(folder: Path) -> Path:
    (path,) = (folder / "outputs" / "sweeps").iterdir()
    return path


def statuses(sweep: Path) -> dict[str, str]:
    return {
        file.parent.name.split("=")[-1].removesuffix(",synthetic"): Run(file.parent).metrics[
            "status"
        ]
        for file in sweep.glob("*/metrics.json")
    }


def written(sweep: Path) -> dict[str, int]:
    """When each run's metrics were last written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in sweep.glob("*/metrics.json")}


# The machine is shared out


@pytest.mark.parametrize(
    ("slot", "each", "seen"),
    [(0, 1, "4"), (1, 1, "6"), (3, 1, "4"), (0, 2, "4,6"), (1, 2, "7,4"), (0, 5, "4,6,7")],
)
def test_each_run_has_as_many_gpus_as_it_asks_for(slot: int, each: int, seen: str) -> None:
    gpus = launcher.gpus_of_slot(["4", "6", "7"], slot, each)
    assert launcher.job_environment(2, gpus, True)["CUDA_VISIBLE_DEVICES"] == seen


def test_a_run_on_the_cpu_sees_no_gpu() -> None:
    assert launcher.job_environment(2, [], True)["CUDA_VISIBLE_DEVICES"] == ""


def test_a_run_has_its_part_of_the_cores_or_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launcher.job_environment(8, [], False) == {"OMP_NUM_THREADS": "3"}
    assert launcher.job_environment(2, [], False) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert launcher.job_environment(2, [], False) == {"OMP_NUM_THREADS": "2"}


# Whole grids


@pytest.mark.slow
def test_a_run_in_its_own_process_has_the_files_of_any_run(folder: Path) -> None:
    done = command(folder, "-m", *TINY, "trainer.max_epochs=1", "seed=0")
    assert done.returncode == 0, done.stderr + done.stdout
    (run,) = (path for path in the_sweep(folder).iterdir() if path.is_dir())
    assert run.name == "default,synthetic"
    assert not (run / "console.log").exists()
    assert (run / "train.log").stat().st_size > 0
    assert Run(run).config.trainer.max_epochs == 1
    assert done.stdout.splitlines()[-1] == f"1 of 1 runs done in {the_sweep(folder)}"
    again = command(folder, "-m", *TINY, "trainer.max_epochs=1", "seed=0")
    assert again.returncode == 0
    assert again.stdout.splitlines()[0] == f"1 of 1 runs are already done in {the_sweep(folder)}"


@pytest.mark.slow
def test_runs_that_fail_stop_no_other_and_alone_are_run_again(folder: Path) -> None:
    (folder / "faults").touch()
    grid = ["-m", *FAULTY, "+model.cell.fault=a,raise,kill,b,hang,c", "hydra.launcher.timeout=45"]
    done = command(folder, *grid)
    assert done.returncode == 1
    sweep = the_sweep(folder)
    assert statuses(sweep) == {
        **dict.fromkeys("abc", "done"),
        **dict.fromkeys(("raise", "kill", "hang"), "failed"),
    }
    table = done.stdout[done.stdout.index("3 of 6 runs done") :]
    for fault, why in {
        "raise": "ValueError: the cell gave up",
        "kill": "killed by SIGKILL after",
        "hang": "killed after 45 s (hydra.launcher.timeout)",
    }.items():
        (line,) = (line for line in table.splitlines() if f"fault={fault}" in line)
        assert why in line
    before = written(sweep)
    (folder / "faults").unlink()
    done = command(folder, *grid)
    assert done.returncode == 0, done.stdout
    assert "6 of 6 runs done" in done.stdout
    assert set(statuses(sweep).values()) == {"done"}
    again = {name for name, time in written(sweep).items() if before[name] != time}
    assert {name.split("=")[-1].removesuffix(",synthetic") for name in again} == {
        *("raise", "kill", "hang")
    }
    assert len(list((sweep / ".earlier").iterdir())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["basic", "joblib"])
def test_no_launcher_runs_a_finished_run_again(folder: Path, name: str) -> None:
    (folder / "faults").touch()
    grid = ["-m", f"hydra/launcher={name}", *FAULTY, "+model.cell.fault=a,raise"]
    grid += {"joblib": ["hydra.launcher.n_jobs=2"]}.get(name, [])
    done = command(folder, *grid)
    assert done.returncode == 1
    assert "1 of 2 runs done" in done.stdout
    assert "ValueError: the cell gave up" in done.stdout
    sweep = the_sweep(folder)
    assert statuses(sweep) == {"a": "done", "raise": "failed"}
    before = written(sweep)
    (folder / "faults").unlink()
    done = command(folder, *grid)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "2 of 2 runs done" in done.stdout
    after = written(sweep)
    assert [name for name in before if before[name] == after[name]] == [
        "+model.cell.fault=a,synthetic"
    ]


def wait_for_running(folder: Path, count: int) -> None:
    """Until so many runs have an epoch behind them."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        files = list(folder.glob("outputs/sweeps/*/*/metrics.json"))
        running = [f for f in files if Run(f.parent).metrics["status"] == "running"]
        if sum(bool(Run(f.parent).metrics.get("epochs")) for f in running) >= count:
            return
        time.sleep(0.1)
    raise AssertionError("the runs did not begin")


def children_of(folder: Path) -> list[int]:
    """Processes that train in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(folder):
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended, or is not ours
    return found


LONG = [*TINY, "trainer.max_epochs=100000", "seed=0,1,2", "hydra.launcher.n_jobs=2"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_parent_ends_its_runs_end_within_10_seconds(
    folder: Path, number: signal.Signals
) -> None:
    parent = started(folder, "-m", *LONG)
    wait_for_running(folder, 2)
    parent.send_signal(number)
    sent = time.monotonic()
    output, _ = parent.communicate(timeout=30)
    while children_of(folder) and time.monotonic() - sent < 30:
        time.sleep(0.1)
    assert time.monotonic() - sent < 10
    assert parent.returncode == (-number if number == signal.SIGKILL else 128 + number)
    runs = [Run(file.parent) for file in the_sweep(folder).glob("*/metrics.json")]
    assert [run.metrics["status"] for run in runs] == ["interrupted"] * 2
    assert all(run.last.exists() for run in runs)
    if number != signal.SIGKILL:
        assert "0 of 3 runs done" in output and "1 not started" in output


@pytest.mark.slow
def test_after_a_kill_only_unfinished_runs_are_run_again(folder: Path) -> None:
    grid = ["-m", *TINY, "trainer.max_epochs=30", "seed=0,1,2,3", "hydra.launcher.n_jobs=1"]
    parent = started(folder, *grid)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        sweeps = list((folder / "outputs").glob("sweeps/*"))
        if sweeps and "done" in statuses(sweeps[0]).values():
            break
        time.sleep(0.1)
    wait_for_running(folder, 1)
    parent.kill()
    parent.communicate(timeout=30)
    sweep = the_sweep(folder)
    before = written(sweep)
    finished = {name for name in before if Run(sweep / name).metrics["status"] == "done"}
    assert finished
    done = command(folder, *grid)
    assert done.returncode == 0, done.stdout
    assert "4 of 4 runs done" in done.stdout
    after = written(sweep)
    assert {name for name in before if before[name] == after[name]} == finished
    (killed,) = set(before) - finished
    assert "resuming " in (sweep / killed / "train.log").read_text("utf-8")
    assert not (sweep / ".earlier").exists()


@pytest.mark.slow
def test_four_sweeps_at_the_same_time_have_four_directories(folder: Path) -> None:
    parents = [started(folder, "-m", *TINY, "trainer.max_epochs=1", "seed=0") for _ in range(4)]
    for parent in parents:
        output, _ = parent.communicate(timeout=200)
        assert parent.returncode == 0, output
    sweeps = list((folder / "outputs" / "sweeps").iterdir())
    assert len(sweeps) == 4
    assert all(set(statuses(sweep).values()) == {"done"} for sweep in sweeps)
