"""The arguments of lightning.Trainer: each changes what it says, and what is recorded stays right.

pytest tests/test_trainer.py
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from imdb_lightning.model.classifier import Classifier
from imdb_lightning.runs import checkpoint
from imdb_lightning.runs.run import Run
from imdb_lightning.train import train
from tests.conftest import TINY, composed
from tests.reliability.processes import command, output_of


BATCHES = 8  # of an epoch of TINY


def trained(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    given = [f"++{text}" if text.startswith("trainer.") else text for text in overrides]
    return train(composed(*TINY, "model=rnn", *given), tmp_path / "run")


def test_a_run_stops_after_max_steps_and_is_validated_and_tested(tmp_path: Path) -> None:
    metrics = trained(tmp_path, "trainer.max_steps=11", "trainer.max_epochs=9")
    first, second = metrics["epochs"]
    assert second["batches"] == 3 and "batches" not in first
    assert second["val/acc"] == metrics["val/acc"] and metrics["status"] == "done"
    last = checkpoint.read(Run(tmp_path / "run").last)
    assert last["progress"]["step"] == 11
    rows = [len(column) for column in last["epoch_outputs"]]
    assert rows == []  # at the end of an epoch


def test_max_steps_end_a_run_before_min_epochs(tmp_path: Path) -> None:
    metrics = trained(tmp_path, "trainer.max_steps=5", "trainer.min_epochs=2")
    assert metrics["status"] == "done" and metrics["epochs"][0]["batches"] == 5
    assert metrics["val/acc"] == metrics["epochs"][0]["val/acc"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trainer.val_check_interval=30", "an epoch has 8 batches"),
        ("trainer.limit_test_batches=0.1", "0.1 of 2 batches of test is none"),
        ("trainer.overfit_batches=0.01", "0.01 of 8 batches of train is none"),
    ],
)
def test_a_part_without_a_batch_is_one_line_before_the_first_step(
    override: str, line: str, tmp_path: Path
) -> None:
    assert command(tmp_path, *TINY, override, "hydra.run.dir=run") == 1
    output = output_of(tmp_path)
    assert line in output and "Traceback" not in output and "epoch 1" not in output


def test_a_validation_within_an_epoch_changes_no_training(tmp_path: Path) -> None:
    one = trained(tmp_path / "1", "model.dropout=0.5")
    two = trained(tmp_path / "2", "model.dropout=0.5", "trainer.val_check_interval=3")
    assert [e["train/loss"] for e in one["epochs"]] == [e["train/loss"] for e in two["epochs"]]
    assert one["test/loss"] == two["test/loss"]


def test_a_run_stops_after_max_time(tmp_path: Path) -> None:
    started = time.monotonic()
    metrics = trained(tmp_path, "trainer.max_time=00:00:00:01", "trainer.max_epochs=1000000")
    assert time.monotonic() - started < 30 and metrics["status"] == "done"
    assert 0 < len(metrics["epochs"]) < 10_000


@pytest.mark.slow
def test_min_epochs_come_before_early_stopping(tmp_path: Path) -> None:
    still = ["optim.lr=1e-12", "callbacks.early_stopping.patience=1", "trainer.max_epochs=9"]
    assert len(trained(tmp_path / "1", *still)["epochs"]) == 2
    assert len(trained(tmp_path / "2", *still, "trainer.min_epochs=4")["epochs"]) == 4
    assert len(trained(tmp_path / "3", *still, f"trainer.min_steps={3 * BATCHES}")["epochs"]) == 3


@pytest.mark.parametrize(("interval", "steps"), [("0.5", [4, 8]), ("3", [3, 6, 8]), ("1.0", [])])
def test_validation_within_an_epoch(interval: str, steps: list[int], tmp_path: Path) -> None:
    metrics = trained(tmp_path, f"trainer.val_check_interval={interval}", "trainer.max_epochs=2")
    found = metrics.get("validations", [])
    assert [v["step"] for v in found] == steps + [BATCHES + step for step in steps]
    for epoch in metrics["epochs"]:
        own = [v for v in found if v["epoch"] == epoch["epoch"]]
        assert not own or own[-1]["val/loss"] == epoch["val/loss"]
    assert metrics["tokens_per_second"] > 0


def test_overfitting_repeats_the_batches_of_the_first_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    step = Classifier.training_step

    def watched(self: Any, batch: Any, index: int) -> Any:
        seen.append(batch[3].tolist())
        return step(self, batch, index)

    monkeypatch.setattr(Classifier, "training_step", watched)
    metrics = trained(tmp_path / "1", "trainer.overfit_batches=2", "trainer.max_epochs=3")
    assert seen == seen[:2] * 3 and len(metrics["epochs"]) == 3
    seen.clear()
    trained(tmp_path / "2", "trainer.limit_train_batches=2", "trainer.max_epochs=3")
    assert len(seen) == 6 and seen[:2] != seen[2:4]


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("trainer.detect_anomaly=true", torch.is_anomaly_enabled, True),
        ("trainer.deterministic=warn", torch.is_deterministic_algorithms_warn_only_enabled, True),
        ("trainer.deterministic=false", torch.are_deterministic_algorithms_enabled, False),
        (
            "trainer.benchmark=true trainer.deterministic=false",
            lambda: torch.backends.cudnn.benchmark,
            True,
        ),
    ],
)
def test_settings_of_a_training_step(
    override: str, read: Any, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[bool] = set()
    step = Classifier.training_step

    def watched(self: Any, batch: Any, index: int) -> Any:
        seen.add(read())
        return step(self, batch, index)

    monkeypatch.setattr(Classifier, "training_step", watched)
    trained(tmp_path / "1", "trainer.max_steps=1")
    trained(tmp_path / "2", "trainer.max_steps=1", *override.split())
    assert seen == {expected, not expected}


def test_validation_without_inference_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    step = Classifier.validation_step

    def watched(self: Any, batch: Any, index: int) -> None:
        seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        step(self, batch, index)

    monkeypatch.setattr(Classifier, "validation_step", watched)
    trained(tmp_path, "trainer.inference_mode=false", "trainer.max_steps=1")
    assert set(seen) == {(False, False)}


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_the_profile_is_in_the_run_directory(profiler: str, tmp_path: Path) -> None:
    trained(tmp_path, f"trainer.profiler={profiler}", "trainer.max_steps=2")
    profile = (tmp_path / "run" / "fit-profile.txt").read_text("utf-8")
    assert "run_training_batch" in profile


def test_a_fast_dev_run_tries_everything_and_keeps_nothing(tmp_path: Path) -> None:
    assert command(tmp_path, *TINY, "trainer.fast_dev_run=2") == 0
    output = output_of(tmp_path)
    assert "train, val and test work; nothing was kept" in output and "epoch 1/1" in output
    assert str(tmp_path) not in output and not (tmp_path / "outputs").exists()
    for refused in (["-m", "seed=0,1"], ["hydra.run.dir=run"], ["resume=run"]):
        assert command(tmp_path, *TINY, "trainer.fast_dev_run=true", *refused) == 2
    assert not (tmp_path / "run").exists()
