"""One run on two processes (gloo): the numbers of one process, and clear ends.

pytest tests/runtime/test_distributed.py
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imdb_lightning.data.batches import COPY, BucketBatchSampler, EncodedReviews, RankBatches
from imdb_lightning.runs import predictions
from imdb_lightning.runs.run import Run
from imdb_lightning.runtime import distributed
from tests.conftest import SERVER, command, environment, run_module, run_of


# An epoch's last batch has one review: the second process has none of it.
SMALL = (
    "data=synthetic data.train_size=65 data.val_size=17 data.test_size=18 data.max_length=60 "
    "data.batch_size=8 data.cache_dir=null model.embedding_size=8 model.hidden_size=8 "
    "trainer=cpu trainer.max_epochs=3 model.dropout=0 optim.lr=0.01"
).split()
SLOW = """
import os, time
from lightning.pytorch import Callback
class Slow(Callback):
    def on_train_batch_end(self, *_):
        if os.path.exists("slow"):
            time.sleep(0.3)
"""


class Together:
    """`python -m imdb_lightning ARGUMENTS` in `count` processes, as torchrun starts them."""

    def __init__(self, folder: Path, *arguments: str, count: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.pipes = Path(tempfile.mkdtemp(dir=folder))
        self.processes = []
        for rank in range(count):
            files = [self.pipes / f"{name}{rank}" for name in ("in", "out", "err")]
            files[0].touch()
            variables = environment(folder) | {
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"},
                **{"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            }
            words = [*arguments]
            process = SERVER.Process(
                target=run_module, args=(folder, "imdb_lightning", words, files, variables)
            )
            process.start()
            self.processes.append(process)

    def wait(self, seconds: float = 120) -> list[int | None]:
        """The exit codes."""
        give_up = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, give_up - time.monotonic()))
            if process.is_alive():
                for other in self.processes:
                    other.kill()
                raise TimeoutError(self.text)
        return [process.exitcode for process in self.processes]

    @property
    def text(self) -> str:
        return "\n".join(file.read_text() for file in sorted(self.pipes.glob("[eo]*")))


def together(folder: Path, *arguments: str) -> Run:
    """A run of two processes in folder/two."""
    it = Together(folder, *SMALL, "trainer.devices=2", "hydra.run.dir=two", *arguments)
    assert it.wait() == [0, 0], it.text
    return Run(folder / "two")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.last, weights_only=True)["state_dict"]


def largest_difference(first: Run, second: Run) -> float:
    own, other = weights(first), weights(second)
    assert own.keys() == other.keys()
    return max(float((own[name] - other[name]).abs().max()) for name in own)


# The batches


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_the_processes_have_the_rows_of_one(world_size: int) -> None:
    lengths = np.arange(1, 66)
    order = BucketBatchSampler(lengths, 8, seed=3)
    parts = [[*RankBatches(order, rank, world_size)] for rank in range(world_size)]
    for rows, *split in zip(order, *parts, strict=True):
        own = [row for part in split for row in part if row >= 0]
        assert sorted(own) == sorted(rows)
        assert all(part == [~rows[0]] for part in split if min(part) < 0)


def test_a_copy_is_the_review_with_another_index() -> None:
    reviews = EncodedReviews(
        np.arange(7, dtype=np.int32), np.array([0, 3, 7]), np.array([1, 0]), np.array([5, 6])
    )
    tokens_BT, lengths_B, labels_B, index_B = reviews.__getitems__([~1])
    assert tokens_BT.tolist() == [[3, 4, 5, 6]] and lengths_B.tolist() == [4]
    assert labels_B.tolist() == [0] and index_B.tolist() == [COPY]


# Runs


def check_equal(one: Run, two: Run) -> None:
    assert largest_difference(one, two) < 1e-5
    for name in ("val/acc", "val/loss", "test/acc", "test/loss", "best_epoch"):
        assert two.metrics[name] == pytest.approx(one.metrics[name], abs=1e-5), name
    for own, other in zip(one.metrics["epochs"], two.metrics["epochs"], strict=True):
        assert other["train/loss"] == pytest.approx(own["train/loss"], abs=1e-5)
        assert other["train/acc"] == own["train/acc"]
    for split in ("val", "test"):
        (own,), (other,) = (predictions.read(r.predictions, split).values() for r in (one, two))
        assert other.index.tolist() == own.index.tolist()
        assert np.abs(other.logit - own.logit).max() < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        "model=gru",
        pytest.param("model=custom_lstm", marks=pytest.mark.slow),
        pytest.param("model=custom_rnn model.bidirectional=true", marks=pytest.mark.slow),
        "model=custom_gru trainer.accumulate_grad_batches=3 trainer.gradient_clip_val=0.1 "
        "optim.ema_decay=0.9 optim.adversarial_epsilon=0.01 schedule=one_cycle",
        pytest.param(
            "model=custom_gru optim=sgd optim.lr=0.1 schedule=reduce_on_plateau "
            "test_checkpoint=best callbacks.early_stopping.patience=1",
            marks=pytest.mark.slow,
        ),
        pytest.param("model=custom_gru data.num_workers=1", marks=pytest.mark.slow),
        pytest.param(
            "model=rnn trainer.enable_progress_bar=true trainer.enable_model_summary=true "
            "callbacks=learning_rate_monitor trainer.log_every_n_steps=2",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_have_the_weights_of_one(options: str, tmp_path: Path) -> None:
    one = Run(run_of(tmp_path / "one", *SMALL, *options.split(), tiny=()))
    two = together(tmp_path, *options.split())
    check_equal(one, two)
    assert two.metrics["processes"] == 2 and "processes" not in one.metrics
    assert len([*two.path.glob("events.out.tfevents.*")]) == 1
    assert "train.log" in {file.name for file in two.path.iterdir()}


def slow_run(folder: Path, *options: str) -> list[str]:
    (folder / "slow.py").write_text(SLOW)
    return [
        *(*SMALL, "trainer.devices=2", "model=custom_rnn", "checkpoint.every_steps=2", *options),
        *("callbacks.slow._target_=slow.Slow", "hydra.run.dir=two"),
    ]


RESUME = ["resume=two", "callbacks.slow._target_=slow.Slow"]


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_process_that_ends_ends_all_and_the_run_is_resumed(how: int, tmp_path: Path) -> None:
    """Dropout draws other numbers in each process."""
    run = Run(tmp_path / "two")
    arguments = slow_run(tmp_path, "model.dropout=0.4")
    (tmp_path / "slow").touch()
    it = Together(tmp_path, *arguments)
    give_up = time.monotonic() + 60
    while not run.last.exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    started = time.monotonic()
    pid = it.processes[1].pid
    assert pid is not None
    os.kill(pid, how)
    codes = it.wait(60)
    assert time.monotonic() - started < 60
    (tmp_path / "slow").unlink()
    if how == signal.SIGKILL:
        assert codes == [1, -signal.SIGKILL]
        assert run.metrics["error"] == "another process of the run has ended"
        assert run.was_killed
    else:
        assert codes == [143, 143], it.text
        assert run.status == "interrupted"
    again = Together(tmp_path, *RESUME)
    assert again.wait() == [0, 0], again.text
    whole = tmp_path / "whole"
    whole.mkdir()
    it = Together(whole, *slow_run(whole, "model.dropout=0.4"))
    assert it.wait() == [0, 0], it.text
    assert largest_difference(run, Run(whole / "two")) == 0
    for name in ("val/loss", "test/loss", "temperature"):
        assert run.metrics[name] == Run(whole / "two").metrics[name]


@pytest.mark.slow
def test_another_number_of_processes_resumes_to_the_same_weights(tmp_path: Path) -> None:
    run = Run(tmp_path / "two")
    (tmp_path / "slow").touch()
    it = Together(tmp_path, *slow_run(tmp_path))
    while not run.last.exists():
        time.sleep(0.05)
    os.kill(it.processes[0].pid or 0, signal.SIGTERM)
    assert it.wait() == [143, 143], it.text
    (tmp_path / "slow").unlink()
    done = command(tmp_path, *RESUME, "trainer.devices=1")
    assert done.returncode == 0, done.stderr
    one = Run(run_of(tmp_path / "one", *SMALL, "model=custom_rnn", tiny=()))
    check_equal(one, run)


@pytest.mark.slow
def test_numbers_that_are_not_finite_end_all_with_one_line(tmp_path: Path) -> None:
    options = ["optim.lr=3e38", "model=custom_gru", "hydra.run.dir=two", "trainer.devices=2"]
    it = Together(tmp_path, *SMALL, *options)
    assert it.wait() == [1, 1], it.text
    run = Run(tmp_path / "two")
    assert run.diverged and run.non_finite.exists()
    assert it.text.count("its reviews are listed in") == 1


def test_an_error_of_one_process_is_no_other_ones() -> None:
    assert not distributed.is_peer_error(RuntimeError("the server refused the connection"))
    assert not distributed.is_peer_error(RuntimeError("Connection closed by peer"))  # one process
    assert distributed.is_peer_error(distributed.PeerError("gone"))


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2", "RANK": "0"},
        {
            "WORLD_SIZE": "abc",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "MASTER_PORT": "1",
            "MASTER_ADDR": "x",
        },
        {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PTY_PORT": "40000"},
        {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_variables_that_start_nothing(variables: dict[str, str]) -> None:
    assert not distributed.is_launched(variables)


# The command


@pytest.mark.slow
def test_the_command_starts_its_processes(tmp_path: Path) -> None:
    done = command(tmp_path, *SMALL, "trainer=ddp", "trainer.accelerator=cpu", "hydra.run.dir=two")
    assert (done.returncode, done.stderr) == (0, "")
    assert Run(tmp_path / "two").metrics["processes"] == 2
    assert done.stdout.count("epoch 1/3") == 1
    done = command(tmp_path, "resume=two")
    assert done.returncode == 0 and "is done" in done.stdout
    done = command(tmp_path, "-m", *SMALL, "trainer.devices=2", "seed=0,1", "hydra.sweep.dir=grid")
    assert done.returncode == 0, done.stdout
    assert [Run(p.parent).metrics["processes"] for p in tmp_path.glob("grid/*/metrics.json")] == [
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trainer.devices=2", "model.hiden_size=3"], "did you mean model.hidden_size?"),
        (["trainer.devices=0"], "trainer.devices=0: must be an integer >= 1"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2: start it on each machine"),
        (["trainer.strategy=fsdp"], "trainer.strategy=fsdp: must be one of auto, ddp"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    words: Sequence[str], line: str, tmp_path: Path
) -> None:
    done = command(tmp_path, *SMALL, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and line in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_too_many_processes_are_refused(tmp_path: Path) -> None:
    it = Together(tmp_path, *SMALL, "trainer.devices=3", "hydra.run.dir=two")
    assert it.wait()[0] == 2
    assert "2 processes were started, but trainer.devices * trainer.num_nodes is 3" in it.text
    assert not (tmp_path / "two").exists()


def test_srun_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    step: dict[str, Any] = {
        **{"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"},
        **{"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "77"},
        **{"SLURM_STEP_NODELIST": "nowhere-[3-4]", "SLURM_LAUNCH_NODE_IPADDR": "10.1.2.3"},
    }
    assert distributed.is_launched(step)
    assert not distributed.is_launched({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"})  # a job script
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("GROUP_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    distributed.translate_slurm()
    assert (os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]) == (
        "3",
        "1",
        "4",
    )
    assert os.environ["MASTER_ADDR"] == "10.1.2.3" and os.environ["LOCAL_WORLD_SIZE"] == "2"
