"""A run that is killed at any moment is resumed and ends with the bits of one that was not.

pytest tests/reliability/test_kills.py; pytest -m slow tests/reliability/test_kills.py
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from imdb_lightning.runs import checkpoint
from imdb_lightning.runs.run import Run
from tests.conftest import some_reviews, write_parquet
from tests.runs.test_launcher import children_of

from .processes import (
    SMALL,
    STEP,
    TEST,
    VALIDATION,
    VECTORS,
    Moment,
    command,
    differences,
    killed_after,
    output_of,
    run,
    started,
)


pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and the fork server are POSIX's")

MODELS = {
    "rnn": "model=rnn",
    "lstm": "model=lstm model.num_layers=2 model.bidirectional=true",
    "gru": "model=gru",
    "custom_rnn": "model=custom_rnn",
    "custom_lstm": "model=custom_lstm",
    "custom_gru": "model=custom_gru",
    "custom_rnn, loop": "model=custom_rnn model.implementation=loop",
    "custom_lstm, loop": "model=custom_lstm model.implementation=loop",
    "custom_gru, loop": "model=custom_gru model.implementation=loop",
}
EPOCH_END = "imdb_lightning.callbacks.run_logger:RunLogger.on_train_epoch_end"
SAVE = "imdb_lightning.callbacks.checkpoints:RunCheckpoint.on_train_epoch_end"


class Disk(NamedTuple):
    """What a killed run has left: progress as (epoch, batch), and epochs in metrics.json."""

    last: tuple[int, int] | None
    epochs: int
    best: tuple[int, int] | None = (1, 0)
    has_temporary_file: bool = False
    has_predictions: bool = False

    @classmethod
    def of(cls, path: Path) -> Disk:
        run = Run(path)
        last, best = (
            checkpoint.TrainingProgress(**checkpoint.read(file)["progress"])[:2]
            if file.exists()
            else None
            for file in (run.last, run.best)
        )
        temporary = any(run.last.parent.glob(".*.tmp"))
        return cls(last, run.completed_epochs, best, temporary, run.predictions.exists())


# Ten steps an epoch, a checkpoint after the third, sixth and ninth; the first epoch is the best.
MOMENTS = {
    "before the first step": (Moment(STEP, 1), Disk(None, 0, None)),
    "before the first checkpoint": (Moment(STEP, 3), Disk(None, 0, None)),
    "in training": (Moment(STEP, 17), Disk((1, 6), 1)),
    "at the last step of an epoch": (Moment(STEP, 20), Disk((1, 9), 1)),
    "in validation": (Moment(VALIDATION, 3), Disk((1, 9), 1)),
    "at the end of an epoch, before it is logged": (Moment(EPOCH_END, 2), Disk((1, 9), 1)),
    "at the end of an epoch, after it is logged": (
        Moment(EPOCH_END, 2, after=True),
        Disk((1, 9), 2),
    ),
    "at the end of an epoch, before its checkpoint": (Moment(SAVE, 2), Disk((1, 9), 2)),
    "at the end of an epoch, after its checkpoint": (Moment(SAVE, 2, after=True), Disk((2, 0), 2)),
    "between the best and the last checkpoint": (
        Moment("imdb_lightning.runs.checkpoint:ChecksummedCheckpointIO.save_checkpoint", 4, True),
        Disk((0, 9), 1),
    ),
    "before a checkpoint is renamed": (
        Moment("pathlib:Path.replace", 5, named=".last.ckpt."),
        Disk((1, 0), 1, has_temporary_file=True),
    ),
    "after a checkpoint is renamed": (
        Moment("pathlib:Path.replace", 5, after=True, named=".last.ckpt."),
        Disk((1, 3), 1),
    ),
    "after the last epoch, before the test": (Moment(SAVE, 3, after=True), Disk((3, 0), 3)),
    "in the test": (Moment(TEST, 2), Disk((3, 0), 3)),
    "before the predictions": (
        Moment("imdb_lightning.runs.predictions:write"),
        Disk((3, 0), 3),
    ),
    "before the end is recorded": (
        Moment("imdb_lightning.loggers.tensorboard:RunTensorBoard._add_hparams", after=True),
        Disk((3, 0), 3, has_predictions=True),
    ),
}


def test_a_difference_is_seen(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    other = differences(uninterrupted(), run(tmp_path, *SMALL, "seed=1"))
    for part in ("last.ckpt.state_dict", "last.ckpt.optimizer", "metrics.json", "TensorBoard"):
        assert any(part in line for line in other)
    assert "predictions.parquet" in other and "curves.png" in other


@pytest.mark.parametrize(
    "name",
    [name if name == "lstm" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(
    name: str, uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    model = MODELS[name].split()
    run(tmp_path, *SMALL, *model, moment=Moment(STEP, 18))
    resumed = run(tmp_path, *SMALL, *model)
    assert "resuming in epoch 2, after 6 of its batches" in output_of(tmp_path)
    assert differences(uninterrupted(*model), resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_wherever_it_is_killed(
    seed: int, uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    chosen = random.Random(seed)
    model = MODELS[chosen.choice(list(MODELS))].split()
    arguments = (*model, f"seed={seed}")
    moment = Moment(STEP, chosen.randint(1, 30), after=chosen.random() < 0.5)
    run(tmp_path, *SMALL, *arguments, moment=moment)
    assert differences(uninterrupted(*arguments), run(tmp_path, *SMALL, *arguments)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MOMENTS)
def test_a_kill_at_any_moment_changes_nothing(
    name: str, uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    moment, disk = MOMENTS[name]
    assert Disk.of(run(tmp_path, *SMALL, moment=moment)) == disk
    assert differences(uninterrupted(), run(tmp_path, *SMALL)) == []


@pytest.mark.slow
def test_three_kills_in_one_epoch(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    for step in (14, 3, 4):  # of the process: they resume after the third, sixth, ninth batch
        run(tmp_path, *SMALL, moment=Moment(STEP, step))
    resumed = run(tmp_path, *SMALL)
    messages = [line for line in output_of(tmp_path).splitlines() if line.startswith("resuming")]
    assert messages == [f"resuming in epoch 2, after {n} of its batches" for n in (3, 3, 6)]
    assert differences(uninterrupted(), resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "data.num_workers=2",
        "trainer.accumulate_grad_batches=2",
        "callbacks.early_stopping.patience=1 trainer.max_epochs=9",
        "test_checkpoint=best",
        "optim.ema_decay=0.9 schedule=one_cycle optim.adversarial_epsilon=0.1 "
        "model.word_dropout=0.2 model.embedding_dropout=0.2 test_checkpoint=best",
        "model=custom_lstm trainer.gradient_clip_val=0.1 trainer.precision=bf16-mixed",
        "model.pooling=mean_padded data.truncation=head_tail data.max_length=45 data.distance=0",
        "trainer.limit_train_batches=7",
        "trainer.val_check_interval=0.4",
        "trainer.max_steps=21 trainer.val_check_interval=3 data.num_workers=2",
        "trainer.overfit_batches=7",
        "optim=sgd schedule=reduce_on_plateau schedule.patience=0",
        "optim=adamw schedule=cosine",
        "optim=rmsprop schedule=step schedule.step_size=1",
        "optim=nadam schedule=linear_warmup schedule.total_iters=25",
        "optim=radam",
        "optim=adagrad",
        "model=gru data.num_workers=2 trainer.accumulate_grad_batches=2",
        "model=custom_gru data.num_workers=2 trainer.accumulate_grad_batches=2",
    ],
)
def test_whatever_the_options(
    arguments: str, uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    options = arguments.split()
    moments = [Moment(STEP, 16), Moment(TEST)]
    for moment in moments:
        run(tmp_path, *SMALL, *options, moment=moment)
    assert differences(uninterrupted(*options), run(tmp_path, *SMALL, *options)) == []


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lstm", "custom_gru"])
def test_an_interruption_of_validation(
    model: str, uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    options = [*SMALL, f"model={model}"]
    moment = Moment(VALIDATION, 3, number=signal.SIGINT)  # in the second epoch
    assert command(tmp_path, *options, "hydra.run.dir=run", moment=moment) == 130
    assert Run(tmp_path / "run").metrics["status"] == "interrupted"
    assert differences(uninterrupted(f"model={model}"), run(tmp_path, *options)) == []


@pytest.mark.slow
def test_the_cache_may_be_removed_before_a_run_is_resumed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data", train=some_reviews(96), test=some_reviews(16, 100))
    sizes = ("data=", "data.train_size", "data.test_size", "data.cache_dir")
    options = [text for text in SMALL if not text.startswith(sizes)] + ["data.path=data"]
    uninterrupted = run(tmp_path, *options).rename(tmp_path / "uninterrupted")
    assert any((tmp_path / "cache").iterdir())
    run(tmp_path, *options, moment=Moment(STEP, 14))
    shutil.rmtree(tmp_path / "cache")
    assert differences(uninterrupted, run(tmp_path, *options)) == []


@pytest.mark.slow
def test_six_first_starts_at_once_have_the_same_bits(tmp_path: Path) -> None:
    """Without encoded reviews and without compiled kernels."""
    write_parquet(tmp_path / "data", train=some_reviews(96), test=some_reviews(16, 100))
    sizes = ("data=", "data.train_size", "data.test_size", "data.cache_dir")
    options = [text for text in SMALL if not text.startswith(sizes)] + ["data.path=data"]
    options += ["model=custom_gru", "trainer.max_epochs=1"]
    processes = [started(tmp_path, *options, f"hydra.run.dir=run{n}") for n in range(6)]
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * 6, output_of(tmp_path)
    for number in range(1, 6):
        assert differences(tmp_path / "run0", tmp_path / f"run{number}") == []


@pytest.mark.slow
def test_a_second_grid_on_a_directory_is_refused(tmp_path: Path) -> None:
    grid = [*SMALL, "-m", "seed=0,1", "trainer.max_epochs=400", "hydra.sweep.dir=grid"]
    first = started(tmp_path, *grid)
    deadline = time.monotonic() + 60
    while not [*tmp_path.glob("grid/*/metrics.json")] and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        assert command(tmp_path, *grid) == 2
        assert "another process is working in it" in output_of(tmp_path)
    finally:
        first.terminate()
        first.join(30)
    assert first.exitcode == 143


@pytest.mark.slow
def test_a_pretraining_restarts_from_scratch(
    uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    options = ("pretrain=vectors", "data.use_unlabelled=true")
    run(tmp_path, *SMALL, *options, moment=Moment(VECTORS, after=True))
    assert differences(uninterrupted(*options), run(tmp_path, *SMALL, *options)) == []


@pytest.mark.slow
def test_loader_workers_change_no_bit(uninterrupted: Callable[..., Path]) -> None:
    without, two = uninterrupted(), uninterrupted("data.num_workers=2")
    assert [line for line in differences(without, two) if "data" not in line] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_loader_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    folder = tmp_path / "killed"  # the process of the tests is in tmp_path
    run(folder, *SMALL, "data.num_workers=2", moment=Moment(STEP, 12))
    until = time.monotonic() + 60
    while children_of(folder) and time.monotonic() < until:
        time.sleep(0.2)
    assert children_of(folder) == []


@pytest.mark.slow
def test_killed_from_outside(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    chosen = random.Random(0)
    kills = 0
    while killed_after(tmp_path, chosen.uniform(0, 3 if kills else 0.3), *SMALL):
        kills += 1
        assert kills < 60
    run_again = command(tmp_path, *SMALL, "hydra.run.dir=run", "resume=auto")
    assert run_again == 0
    assert kills > 0
    assert differences(uninterrupted(), tmp_path / "run") == []
