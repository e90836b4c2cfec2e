"""What happens to grids on a real SLURM cluster: nothing is lost, and nothing runs twice.

bash tests/slurm/run.sh                                    starts a cluster first
SLURM_CONF=... python -m tests.slurm.scenarios FOLDER      on the cluster that there is
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from imdb_lightning.runs.run import Run


DATA = "data=synthetic data.train_size=640 data.val_size=64 data.test_size=64".split()
SLURM = "hydra/launcher=slurm hydra.launcher.cpus_per_task=1 hydra.launcher.mem_gb=1".split()
GRID = ["-m", *DATA, *SLURM, "trainer=cpu", "model=custom_rnn", "checkpoint.every_steps=5"]
# About a minute, most of it asleep.
LONG = ["trainer.max_epochs=24", "callbacks.slow._target_=slow.Slow"]
SLOW = """
import os, time
from lightning.pytorch import Callback
class Slow(Callback):
    def on_train_batch_end(self, *_):
        time.sleep(float(os.environ.get("SLOW", "0.25")))
"""


class Command:
    """A grid's command in its own directory, with its output in a file."""

    def __init__(self, folder: Path, *arguments: str, name: str = "out", slow: str = "") -> None:
        folder.mkdir(exist_ok=True)
        (folder / "slow.py").write_text(SLOW)
        self.folder = folder
        self.output = folder / name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imdb_lightning", *arguments, "hydra.sweep.dir=it"],
            cwd=folder,
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | ({"SLOW": slow} if slow else {}),
        )

    def wait(self, seconds: float = 400) -> tuple[int, str]:
        """The exit code and the output."""
        code = self.process.wait(seconds)
        return code, self.output.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


def runs(folder: Path) -> list[Run]:
    return [Run(file.parent) for file in sorted((folder / "it").glob("*/metrics.json"))]


def jobs(folder: Path) -> list[str]:
    """The ids of a grid's jobs."""
    try:
        return [*json.loads((folder / "it" / ".slurm" / "jobs.json").read_text()).values()]
    except FileNotFoundError:
        return []


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def queued(folder: Path) -> list[str]:
    """The jobs of a grid that are queued or running."""
    known = slurm("squeue", "-h", "-r", "-o", "%i").split()
    return [id_ for id_ in jobs(folder) if id_ in known]


def until(what: Callable[[], object], seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.5)


def trains(folder: Path, count: int, epochs: int = 1) -> Callable[[], bool]:
    return lambda: sum(run.completed_epochs >= epochs for run in runs(folder)) >= count


def check_whole(folder: Path, whole: Run) -> None:
    """The one run has the weights and the numbers of a run that nothing has interrupted."""
    (run,) = runs(folder)
    first, second = (torch.load(r.last, weights_only=True)["state_dict"] for r in (run, whole))
    assert all(torch.equal(first[name], second[name]) for name in second)
    for name in ("val/acc", "test/acc", "test/loss"):
        assert run.metrics[name] == whole.metrics[name], name
    losses = [[epoch["train/loss"] for epoch in r.metrics["epochs"]] for r in (run, whole)]
    assert losses[0] == losses[1]


def plain(folder: Path, whole: Run) -> None:
    code, text = Command(folder, *GRID, "seed=0,1,2", "trainer.max_epochs=1").wait()
    assert code == 0 and "3 of 3 runs done" in text, text
    code, text = Command(folder, *GRID, "seed=0,1,2", "trainer.max_epochs=1").wait()
    assert code == 0 and "3 of 3 runs are already done" in text, text
    assert len({id_.split("_")[0] for id_ in jobs(folder)}) == 1  # one array


def cancelled(folder: Path, whole: Run) -> None:
    """One run of two, with scancel."""
    grid = [*GRID, "seed=0,1", *LONG]
    command = Command(folder, *grid)
    until(trains(folder, 2))
    slurm("scancel", jobs(folder)[0])
    code, text = command.wait()
    assert code == 1 and "1 of 2 runs done" in text and "cancelled" in text, text
    code, text = Command(folder, *grid, name="again").wait()
    assert code == 0 and "2 of 2 runs done" in text, text
    text = (runs(folder)[0].path / "train.log").read_text()
    assert re.search(r"resuming (in|after) epoch", text), text


def interrupted(folder: Path, whole: Run) -> None:
    """Ctrl-C cancels; a second one leaves the jobs; the same command attaches."""
    grid = [*GRID, "seed=0,1", *LONG]
    command = Command(folder, *grid)
    until(trains(folder, 2))
    command.signal(signal.SIGINT)
    code, text = command.wait()
    assert code == 130 and "cancelled 2 jobs; the same command resumes" in text, text
    assert queued(folder) == []
    assert all(run.last.exists() and run.status == "interrupted" for run in runs(folder))
    command = Command(folder, *grid, name="second")
    until(lambda: len(queued(folder)) == 2)
    until(trains(folder, 2))
    command.signal(signal.SIGINT)
    time.sleep(1.5)
    command.signal(signal.SIGINT)
    code, text = command.wait()
    assert code == 130 and len(queued(folder)) == 2, text
    before = jobs(folder)
    code, text = Command(folder, *grid, name="third").wait()
    assert code == 0 and text.count("attached to job") == 2, text
    assert jobs(folder) == before


def killed_command(folder: Path, whole: Run) -> None:
    """The command is killed with its jobs in the queue, and run again."""
    grid = [*GRID, "seed=0,1", "trainer.max_epochs=8"]
    command = Command(folder, *grid)
    until(lambda: len(queued(folder)) == 2)
    command.signal(signal.SIGKILL)
    before = jobs(folder)
    code, text = Command(folder, *grid, name="again").wait()
    assert code == 0 and "2 of 2 runs done" in text, text
    assert jobs(folder) == before


def time_limit(folder: Path, whole: Run) -> None:
    """A run that needs more than two limits."""
    limit = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=30"]
    code, text = Command(folder, *GRID, "seed=0", *LONG, *limit, slow="0.8").wait(600)
    assert code == 0, text
    (id_,) = jobs(folder)
    restarts = int(re.findall(r"Restarts=(\d+)", slurm("scontrol", "show", "job", id_))[0])
    assert restarts >= 2, restarts
    check_whole(folder, whole)


def requeued(folder: Path, whole: Run) -> None:
    """Queued again from outside while its node is drained: it continues on the other one."""
    command = Command(folder, *GRID, "seed=0", *LONG)
    until(trains(folder, 1, 3))
    (id_,) = jobs(folder)
    node = slurm("squeue", "-h", "-j", id_, "-o", "%N").strip()
    slurm("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        slurm("scontrol", "requeue", id_)
        until(lambda: slurm("squeue", "-h", "-j", id_, "-o", "%T").strip() == "RUNNING")
        assert slurm("squeue", "-h", "-j", id_, "-o", "%N").strip() != node
    finally:
        slurm("scontrol", "update", f"nodename={node}", "state=resume")
    code, text = command.wait()
    assert code == 0, text
    check_whole(folder, whole)


def preempted(folder: Path, whole: Run) -> None:
    """Jobs of a partition with priority take all CPUs for a while."""
    command = Command(folder, *GRID, "seed=0", *LONG)
    until(trains(folder, 1, 3))
    (id_,) = jobs(folder)
    hogs = slurm(
        "sbatch",
        "--parsable",
        "-o",
        "/dev/null",
        "-p",
        "urgent",
        "-N2",
        "--exclusive",
        "--wrap",
        "sleep 5",
    )
    until(lambda: slurm("squeue", "-h", "-j", id_, "-o", "%T").strip() == "PENDING")
    until(lambda: hogs.strip() not in slurm("squeue", "-h", "-o", "%i").split(), 200)
    code, text = command.wait()
    assert code == 0, text
    check_whole(folder, whole)


def gpu_of_the_node(folder: Path, whole: Run) -> None:
    """The login node does not refuse what only the node can know; the node says so in one line."""
    words = [text for text in GRID if text != "trainer=cpu"]
    more = ["trainer=gpu", "hydra.launcher.gpus_per_node=null", "trainer.devices=1"]
    code, text = Command(
        folder, *words, "seed=0", *more, "hydra.launcher.more={gpus-per-node: 0}"
    ).wait()
    assert code == 1 and "this machine has no such device" in text, text


def two_nodes(folder: Path, whole: Run) -> None:
    """A run of two processes, one on each node; then the same with a limit in its middle."""
    grid = [*GRID, "seed=0", "model.dropout=0", "trainer.num_nodes=2"]
    limit = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=50"]
    folder.mkdir()
    limited = Command(folder / "limit", *grid, *LONG, *limit, slow="0.6")
    code, text = Command(folder, *grid, "trainer.max_epochs=4").wait()
    assert code == 0, text
    (run,) = runs(folder)
    assert run.metrics["processes"] == 2
    line = [*(text for text in GRID[1:] if text not in SLURM), "seed=0", "model.dropout=0"]
    command = [sys.executable, "-m", "imdb_lightning", *line, "trainer.max_epochs=4"]
    subprocess.run([*command, "hydra.run.dir=one"], cwd=folder, check=True, capture_output=True)
    one, two = (
        torch.load(r.last, weights_only=True)["state_dict"] for r in (Run(folder / "one"), run)
    )
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    code, text = Command(folder / "free", *grid, *LONG, slow="0.01").wait()
    assert code == 0, text
    code, text = limited.wait(600)
    assert code == 0, text
    (id_,) = jobs(folder / "limit")
    assert "Restarts=0" not in slurm("scontrol", "show", "job", id_)
    (run,) = runs(folder / "limit")
    check_whole(folder / "free", run)


def two_mounts(folder: Path, whole: Run) -> None:
    """Two machines that share a directory start the same grid, without SLURM."""
    shared, other = folder / "shared", folder / "other"
    for path in (shared, other):
        path.mkdir(parents=True)
    slurm("mount", "--bind", str(shared), str(other))
    try:
        grid = [*(text for text in GRID if text not in SLURM), "seed=0,1", "trainer.max_epochs=20"]
        grid.append("callbacks.slow._target_=slow.Slow")
        first = Command(shared, *grid)
        until(trains(shared, 1))
        code, text = Command(other, *grid, name="second").wait()
        assert code == 2 and "another process is working in it" in text, text
        code, text = first.wait()
        assert code == 0 and "2 of 2 runs done" in text, text
        code, text = Command(other, *grid, name="third").wait()
        assert code == 0 and "2 of 2 runs are already done" in text, text
    finally:
        slurm("umount", str(other))


TOGETHER = (
    plain,
    cancelled,
    interrupted,
    killed_command,
    time_limit,
    gpu_of_the_node,
    two_nodes,
    two_mounts,
)
ALONE = (requeued, preempted)  # they disturb the others


def main(folder: Path, names: Sequence[str]) -> int:
    """The number of scenarios that failed."""
    os.environ["IMDB_LIGHTNING_CACHE"] = str(folder / "cache")
    os.environ["OMP_NUM_THREADS"] = "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slow.py").write_text(SLOW)
    line = [*(text for text in GRID[1:] if text not in SLURM), "seed=0", *LONG]
    subprocess.run(
        [sys.executable, "-m", "imdb_lightning", *line, "hydra.run.dir=whole"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"SLOW": "0"},  # which changes no bit
    )
    whole = Run(folder / "whole")
    failed = []

    def run(scenario: Callable[[Path, Run], None]) -> None:
        name, started = scenario.__name__, time.monotonic()
        try:
            scenario(folder / name, whole)
            result = "ok"
        except Exception:  # noqa: BLE001
            failed.append(name)
            result = f"FAILED\n{traceback.format_exc()}"
        print(f"{name}: {result} ({time.monotonic() - started:.0f} s)", flush=True)

    def wanted(scenarios: Sequence[Callable[[Path, Run], None]]) -> list:
        return [s for s in scenarios if not names or s.__name__ in names]

    with ThreadPoolExecutor() as pool:
        [*pool.map(run, wanted(TOGETHER))]
    for scenario in wanted(ALONE):
        run(scenario)
    print(f"{len(failed)} failed" if failed else "all passed")
    return len(failed)


if __name__ == "__main__":
    sys.exit(min(1, main(Path(sys.argv[1]).absolute(), sys.argv[2:])))
