"""The loggers: each is read back, and holds what metrics.json has.

pytest tests/loggers
"""

from __future__ import annotations

import csv
import importlib.util
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imdb_lightning.runs.run import Run
from imdb_lightning.train import train
from tests.conftest import TINY, composed, not_tested
from tests.reliability.processes import SMALL, Moment, command, output_of, run, scalars


STEP = "imdb_lightning.model.classifier:Classifier.training_step"
BATCHES = 8  # of an epoch of TINY
BY_STEP = {"train/loss_step", "lr", "grad_norm"}
BY_EPOCH = {"train/loss", "train/acc", "val/loss", "val/acc", "train/seconds"}


def trained(tmp_path: Path, *overrides: str) -> Run:
    train(composed(*TINY, "model=rnn", *overrides), tmp_path / "run")
    return Run(tmp_path / "run")


def is_recorded(run: Run, history: dict[str, list[tuple[int, float]]]) -> None:
    """`history` by name has what the run has, at the steps of the optimizer."""
    metrics = run.metrics
    for name in BY_EPOCH:
        key = name.removeprefix("train/") if name.endswith("seconds") else name
        expected = [
            (epoch["epoch"] * BATCHES - 1, pytest.approx(epoch[key])) for epoch in metrics["epochs"]
        ]
        assert history[name] == expected, name
    for name in BY_STEP:
        assert [step for step, _ in history[name]] == [2, 5, 8, 11, 14]
    assert all(value == pytest.approx(1e-3) for _, value in history["lr"])
    assert all(value > 0 for _, value in history["grad_norm"])
    for name in ("test/acc", "test/loss", "val/acc_best"):
        assert history[name][-1] == (16, pytest.approx(metrics[name]))


def of_tensorboard(run: Run) -> dict[str, list[tuple[int, float]]]:
    history: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in scalars(run.path):
        history.setdefault(name, []).append((step, value))
    return history


def of_csv(run: Run) -> dict[str, list[tuple[int, float]]]:
    history: dict[str, list[tuple[int, float]]] = {}
    with (run.path / "metrics.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step":
                    history.setdefault(name, []).append((int(row["step"]), float(value)))
    return history


def test_several_loggers_record_the_same(tmp_path: Path) -> None:
    run = trained(tmp_path, "logger=[tensorboard,csv]", "++trainer.log_every_n_steps=3")
    table = of_csv(run)
    is_recorded(run, table)
    board = of_tensorboard(run)
    del table["train/seconds"], table["epoch"]
    for name, values in table.items():
        assert board[name] == [(step, pytest.approx(value)) for step, value in values], name


def test_a_logger_that_is_not_chosen_writes_nothing(tmp_path: Path) -> None:
    run = trained(tmp_path, "logger=csv")
    assert not [*run.path.glob("events.out.tfevents.*")]
    assert not (trained(tmp_path / "other").path / "metrics.csv").exists()


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    options = (
        *("logger=[tensorboard,csv]", "trainer.log_every_n_steps=3"),
        *(
            "callbacks=learning_rate_monitor",
            "callbacks.learning_rate_monitor.logging_interval=epoch",
        ),
    )
    run(tmp_path, *SMALL, *options, moment=Moment(STEP, 17))  # after the checkpoint of step 16
    resumed = run(tmp_path, *SMALL, *options)
    whole = run(tmp_path / "whole", *SMALL, *options)
    assert scalars(resumed) == scalars(whole)
    tables = [of_csv(Run(path)) for path in (resumed, whole)]
    for table in tables:
        del table["train/seconds"]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_mlflow_reads_back_what_a_run_has_recorded(tmp_path: Path) -> None:
    if importlib.util.find_spec("mlflow") is None:
        not_tested("mlflow is not installed")
    from mlflow.tracking import MlflowClient

    run = trained(
        tmp_path,
        "logger=mlflow",
        f"logger.mlflow.tracking_uri={tmp_path / 'mlruns'}",
        "++trainer.log_every_n_steps=3",
    )
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'imdb_lightning'")
    (record,) = client.search_runs([experiment.experiment_id])
    history = {
        name: [(m.step, m.value) for m in client.get_metric_history(record.info.run_id, name)]
        for name in record.data.metrics
    }
    is_recorded(run, history)
    assert record.data.params["model.hidden_size"] == "8" and record.info.status == "FINISHED"
    files = {file.path for file in client.list_artifacts(record.info.run_id)}
    assert files >= {"test_confusion.png", "test_precision-recall.png", "learning_curves.png"}


def records(log: bytes) -> Iterator[bytes]:
    """Of a log file as LevelDB writes it, after wandb's header of 7 bytes."""
    parts, at = [], 7
    while at + 7 <= len(log):
        if 32768 - at % 32768 < 7:  # what is left of a block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", log, at + 4)
        parts.append(log[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def of_wandb(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], set[str]]:
    """The scalars of an offline run, and the names of its images."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(200):  # another process writes it
        found = [wandb_internal_pb2.Record.FromString(data) for data in records(file.read_bytes())]
        if found and any(record.WhichOneof("record_type") == "exit" for record in found):
            break
        time.sleep(0.1)
    history: dict[str, list[tuple[int, float]]] = {}
    images = set()
    for record in found:
        items = record.history.item
        images |= {item.nested_key[0] for item in items if len(item.nested_key) > 1}
        row: dict[str, Any] = {
            item.nested_key[0]: json.loads(item.value_json)
            for item in items
            if len(item.nested_key) == 1
        }
        step = row.pop("trainer/global_step", None)
        for name, value in row.items():
            if not name.startswith("_"):
                history.setdefault(name, []).append((step, value))
    return history, images


@pytest.mark.slow
def test_wandb_offline_holds_what_a_run_has_recorded(tmp_path: Path) -> None:
    if importlib.util.find_spec("wandb") is None:
        not_tested("wandb is not installed")
    for folder in (tmp_path, tmp_path / "second"):  # one record each, in one process
        run = trained(folder, "logger=wandb", "++trainer.log_every_n_steps=3")
        history, images = of_wandb(run.path)
        is_recorded(run, history)
    assert images == {"test/confusion", "test/precision-recall", "learning curves"}


def test_a_stranger_s_run_reports_nowhere(tmp_path: Path) -> None:
    run(tmp_path, *SMALL, moment=Moment(STEP, 17))
    file = tmp_path / "run" / ".hydra" / "overrides.yaml"
    outside = tmp_path / "outside"
    file.write_text(
        file.read_text("utf-8") + f"- logger=mlflow\n- ++logger.mlflow.tracking_uri={outside}\n"
    )
    assert command(tmp_path, "resume=run") == 2
    assert "its logger=mlflow reports elsewhere" in output_of(tmp_path)
    assert not outside.exists()
    assert command(tmp_path, "resume=run", "logger=csv") == 0, output_of(tmp_path)
    assert not outside.exists() and (tmp_path / "run" / "metrics.csv").exists()
