"""Runs from the command to the run directory, on small data.

pytest tests/test_train.py
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pyarrow.parquet
import pytest
import tokenizers
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from imdb_lightning import baselines
from imdb_lightning.data.datamodule import ReviewDataModule
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.runs.run import Run, RunExistsError
from imdb_lightning.train import train
from imdb_lightning.transfer.teacher import Teachers
from tests.config.test_overrides import GROUPS
from tests.conftest import (
    TINY,
    command,
    composed,
    environment,
    some_reviews,
    write_parquet,
)


TIMES = ("seconds", "cpu_seconds", "tokens_per_second", "peak_memory")
HERE = Path(__file__).parent


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [without_times(epoch) for epoch in value] if name == "epochs" else value
        for name, value in metrics.items()
        if name not in TIMES
    }


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a folder with spaces")


@pytest.fixture(scope="module")
def done(folder: Path) -> subprocess.CompletedProcess[str]:
    return command(folder, *TINY)


@pytest.fixture(scope="module")
def run(folder: Path, done: subprocess.CompletedProcess[str]) -> Run:
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "outputs").iterdir()
    return Run(path)


# The files of a run


def test_a_run_logs_its_progress(done: subprocess.CompletedProcess[str], run: Run) -> None:
    lines = done.stdout.splitlines()
    epochs = [line for line in lines if "epoch " in line and "/2" in line]
    assert len(epochs) == 2
    assert all(line.startswith("synthetic, ") for line in epochs)
    assert all(word in epochs[0] for word in ("train loss", "val loss", "acc", " s"))
    assert "test accuracy" in lines[-2]
    assert lines[-1] == str(run.path)
    assert done.stderr == ""
    log = (run.path / "train.log").read_text("utf-8")
    assert [line for line in lines if line not in log] == []


def test_the_files_of_a_run_directory(run: Run) -> None:
    files = {f.relative_to(run.path).as_posix() for f in run.path.rglob("*") if f.is_file()}
    (events,) = {name for name in files if name.startswith("events.out.tfevents.")}
    assert files - {events} == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "tokenizer.json",
        "metrics.json",
        "predictions.parquet",
        "curves.png",
        "train.log",
    }
    tokenizers.Tokenizer.from_file(str(run.tokenizer))
    assert matplotlib.image.imread(run.curves).shape[2] == 4


def test_the_content_of_metrics(run: Run) -> None:
    metrics = run.metrics
    assert set(metrics) == set(
        "status dataset model seed test_checkpoint versions git parameters data epochs steps "
        "best_epoch val/acc val/loss val/acc_best test/acc test/loss temperature seconds "
        "cpu_seconds peak_memory tokens_per_second device processor".split()
    )
    assert metrics["status"] == "done"
    assert (metrics["dataset"], metrics["model"], metrics["seed"]) == ("synthetic", "lstm", 0)
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2]
    keys = {"epoch", "train/loss", "train/acc", "val/loss", "val/acc", "seconds"}
    assert all(set(epoch) == keys for epoch in metrics["epochs"])
    accuracies = [epoch["val/acc"] for epoch in metrics["epochs"]]
    assert metrics["val/acc"] == accuracies[-1]
    assert metrics["val/acc_best"] == max(accuracies)
    assert metrics["best_epoch"] == accuracies.index(max(accuracies)) + 1
    assert metrics["data"]["reviews"] == {"train": 64, "val": 16, "test": 16}
    assert set(metrics["data"]) >= {"duplicates", "padding", "vocab_size", "source"}


def test_every_trace_of_a_synthetic_run_says_so(run: Run) -> None:
    assert "synthetic" in run.path.name
    assert "synthetic" in run.config.data.name
    assert "synthetic" in (run.path / "train.log").read_text("utf-8")
    assert events(run).Tensors("dataset/text_summary")[0].tensor_proto.string_val == [b"synthetic"]


def test_predictions_give_the_metrics(run: Run) -> None:
    rows = pyarrow.parquet.read_table(run.predictions).to_pylist()
    assert set(rows[0]) == {"split", "index", "label", "logit"}
    for split in ("val", "test"):
        mine = [row for row in rows if row["split"] == split]
        assert len(mine) == 16
        assert [row["index"] for row in mine] == sorted({row["index"] for row in mine})
        right = sum((row["logit"] > 0) == row["label"] for row in mine)
        loss = sum(math.log1p(math.exp(-row["logit"] * (2 * row["label"] - 1))) for row in mine)
        assert run.metrics[f"{split}/acc"] == right / 16
        assert run.metrics[f"{split}/loss"] == pytest.approx(loss / 16, rel=1e-5)


def test_checkpoints_are_plain_and_fit_the_runs_own_configuration(run: Run) -> None:
    model = Classifier.from_config(run.config.model, run.config.optim)
    for checkpoint in (run.best, run.last):
        model.load_state_dict(weights(checkpoint), strict=True)
    best = torch.load(run.best, weights_only=True)
    assert best["epoch"] + 1 == run.metrics["best_epoch"]


def events(run: Run) -> EventAccumulator:
    return EventAccumulator(str(run.path)).Reload()


def test_tensorboard_shows_the_metrics(run: Run) -> None:
    board = events(run)
    for name in ("train/loss", "train/acc", "val/loss", "val/acc", "seconds"):
        tag = "train/seconds" if name == "seconds" else name
        values = [(event.step, event.value) for event in board.Scalars(tag)]
        expected = [(8 * e["epoch"] - 1, pytest.approx(e[name])) for e in run.metrics["epochs"]]
        assert values == expected
    for name in ("test/loss", "test/acc", "val/acc_best"):
        (event,) = board.Scalars(name)
        assert event.value == pytest.approx(run.metrics[name])
    assert set(board.Tags()["images"]) == {"test/confusion", "learning curves"}
    assert "test" in board.Tags()["tensors"]  # the precision-recall curve


def test_tensorboards_hparams_are_the_configuration_and_the_final_metrics(run: Run) -> None:
    tags = events(run).SummaryMetadata
    content = HParamsPluginData.FromString(tags("_hparams_/session_start_info").plugin_data.content)
    hparams = content.session_start_info.hparams
    assert hparams["model.hidden_size"].number_value == 8
    assert hparams["data.name"].string_value == "synthetic"
    assert not any(name.startswith("data.path") for name in hparams)
    shown = {"val/acc", "val/loss", "val/acc_best", "test/acc", "test/loss"}
    assert shown <= set(events(run).Tags()["scalars"])
    with pytest.raises(KeyError):  # else it would hide what other runs have besides
        tags("_hparams_/experiment")


# The same seed, the same bits


def test_the_same_command_has_the_same_bits_in_a_fresh_process(run: Run, tmp_path: Path) -> None:
    again = command(tmp_path, *TINY)
    assert again.returncode == 0, again.stderr
    (path,) = (tmp_path / "outputs").iterdir()
    other = Run(path)
    assert without_times(other.metrics) == without_times(run.metrics)
    assert other.predictions.read_bytes() == run.predictions.read_bytes()
    assert other.tokenizer.read_bytes() == run.tokenizer.read_bytes()
    for name in ("best", "last"):
        mine, theirs = weights(getattr(other, name)), weights(getattr(run, name))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_another_seed_is_another_run(run: Run, tmp_path: Path) -> None:
    other = train(composed(*TINY, "seed=1"), tmp_path / "run")
    assert other["epochs"][0]["train/loss"] != run.metrics["epochs"][0]["train/loss"]
    assert other["data"]["reviews"] == run.metrics["data"]["reviews"]


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("lstm", "custom_gru") else pytest.param(name, marks=pytest.mark.slow)
        for name in GROUPS["model"]
    ],
)
def test_each_model_trains_to_the_same_bits_twice(name: str, tmp_path: Path) -> None:
    overrides = [*TINY, f"model={name}", "model.embedding_size=8", "model.hidden_size=8"]
    first, second = (train(composed(*overrides), tmp_path / run) for run in ("1", "2"))
    assert without_times(first) == without_times(second)


@pytest.mark.parametrize(
    ("name", "implementation"),
    [("custom_lstm", "loop")],
)
def test_each_implementation_trains_to_the_same_bits_twice(
    name: str, implementation: str, tmp_path: Path
) -> None:
    overrides = [*TINY, f"model={name}", f"model.implementation={implementation}"]
    first, second = (train(composed(*overrides), tmp_path / run) for run in ("1", "2"))
    assert without_times(first) == without_times(second)


# Kinds of runs


OF_LADDER = ("recipes/", "pretrain/")  # each builds on the one before: the rest are slow
DEFAULT = ("recipes/adversarial", "pretrain/vectors")
GRIDS = ("batch_size", "cells", "hidden_size", "loss", "memory")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in GRIDS or (name.startswith(OF_LADDER) and name not in DEFAULT)
        else name
        for name in GROUPS["experiment"]
    ],
)
def test_every_experiment_trains_a_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {"train": some_reviews(200), "test": some_reviews(8, offset=200)}
    unlabelled = {"text": some_reviews(40, offset=208)["text"], "label": [-1] * 40}
    data = write_parquet(tmp_path / "d", **splits, unsupervised=unlabelled)
    synthetic = name in ("smoke", "memory")
    reviews = [] if synthetic else [f"data.path={data}", "data.val_size=8"]
    short = ["trainer=cpu", "trainer.max_epochs=1", "+trainer.limit_train_batches=1"]

    def run(experiment: str) -> Path:
        """With the runs upstream of it."""
        one = [f"experiment={experiment}", "hydra.mode=RUN", *reviews, *short]  # of a grid
        cfg = composed(*one)
        if cfg.pretrained is not None:
            one.append(f"pretrained={run(f'pretrain/{Path(cfg.pretrained).name}')}")
        if cfg.teacher is not None:
            names = [path.name.split(",")[0] for path in Teachers(cfg.teacher).paths]
            one.append(f"teacher=[{','.join(str(earlier(name)) for name in names)}]")
        path = tmp_path / experiment.replace("/", "-")
        if not path.exists():
            train(composed(*one), path)
        return path

    def earlier(name: str) -> Path:
        """A grid's recipes-NAME, else a baseline."""
        if name.startswith("recipes-"):
            return run(name.replace("-", "/", 1))
        monkeypatch.setattr(baselines, "VAL_SIZE", 8)
        baselines.run_baseline(name, str(data), tmp_path, refit=False, unlabelled=True)
        return tmp_path / name

    metrics = Run(run(name)).metrics
    assert metrics["status"] == "done"
    assert all(math.isfinite(epoch["train/loss"]) for epoch in metrics["epochs"])


def test_the_best_checkpoint_is_tested_if_configured(tmp_path: Path) -> None:
    overrides = [*TINY, "model=rnn", "trainer.max_epochs=8", "optim.lr=0.03", "seed=2"]
    runs = {}
    for which in ("last", "best"):
        metrics = train(composed(*overrides, f"test_checkpoint={which}"), tmp_path / which)
        runs[which] = (
            metrics,
            pyarrow.parquet.read_table(tmp_path / which / "predictions.parquet"),
        )
    (last, last_rows), (best, best_rows) = runs["last"], runs["best"]
    assert last["best_epoch"] < 8, "the case that this test is about"
    assert best["best_epoch"] == last["best_epoch"]
    assert not best_rows.equals(last_rows)
    val = [row for row in best_rows.to_pylist() if row["split"] == "val"]
    right = sum((row["logit"] > 0) == row["label"] for row in val) / len(val)
    assert right == best["val/acc_best"]


def test_nll_on_raw_logits_diverges_without_breaking_the_run(tmp_path: Path) -> None:
    overrides = ["model.loss=nll_on_raw_logits", "optim.lr=0.1", "trainer.max_epochs=30"]
    metrics = train(composed(*TINY, *overrides), tmp_path / "run")
    assert metrics["status"] == "done"
    assert metrics["test/loss"] < -1_000
    assert all(math.isfinite(epoch["train/loss"]) for epoch in metrics["epochs"])


def test_early_stopping_ends_a_run_that_learns_nothing(tmp_path: Path) -> None:
    overrides = ["callbacks.early_stopping.patience=2", "optim.lr=1e-12", "trainer.max_epochs=9"]
    metrics = train(composed(*TINY, *overrides), tmp_path / "run")
    assert metrics["status"] == "done"
    assert len(metrics["epochs"]) == 3


@pytest.mark.parametrize(
    ("precision", "dtype", "nearness"),
    [("64-true", torch.float64, 1e-6), ("bf16-mixed", torch.float32, 2e-2)],
)
def test_other_precisions_compute_nearly_the_same_and_clip(
    precision: str, dtype: torch.dtype, nearness: float, tmp_path: Path
) -> None:
    """After one step: the loss of float32 but for rounding, and a gradient of the norm 0.1."""
    # PyTorch's LSTM has bf16 only on some processors.
    one_step = ["model=gru", "trainer.max_epochs=1", "+trainer.limit_train_batches=1"]
    losses = []
    for name in ("32-true", precision):
        path = tmp_path / name
        options = [f"trainer.precision={name}", "trainer.gradient_clip_val=1e-3"]
        losses.append(train(composed(*TINY, *one_step, *options), path)["epochs"][0]["train/loss"])
    assert 0 < abs(losses[1] - losses[0]) < nearness * losses[0]
    saved = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {weights.dtype for weights in saved["state_dict"].values()} == {dtype}
    # Adam's first moment is a tenth of the gradient.
    moments = [s["exp_avg"].flatten() for s in saved["optimizer_states"][0]["state"].values()]
    assert torch.cat(moments).norm().item() == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    "precision", ["bf16-mixed", pytest.param("16-mixed", marks=pytest.mark.slow)]
)
def test_an_unsupported_precision_of_an_lstm_is_one_line(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # has neither
    done = command(tmp_path, *TINY, f"trainer.precision={precision}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"imdb_lightning: trainer.precision={precision}: PyTorch's LSTM does not support"
    )
    assert not (tmp_path / "outputs").exists()
    done = command(tmp_path, *TINY, "model=custom_lstm", f"trainer.precision={precision}")
    assert done.returncode == 0, done.stderr


def test_a_gpu_that_is_not_asked_for_causes_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = "lightning.pytorch.accelerators.cuda.CUDAAccelerator.is_available"
    monkeypatch.setattr(available, lambda: True)
    assert train(composed(*TINY), tmp_path / "run")["status"] == "done"


def test_a_scheduler_on_the_path_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}{os.pathsep}{os.environ['PATH']}")
    metrics = train(composed(*TINY), tmp_path / "run")
    assert metrics["status"] == "done"
    done = command(tmp_path, *TINY)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.real
@pytest.mark.parametrize(
    "name", [pytest.param("report/rnn", marks=pytest.mark.slow), "report/custom_lstm"]
)
def test_the_report_trains_on_the_real_reviews(
    name: str, tmp_path: Path, real_data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMDB_DATA", real_data)
    few = [f"+trainer.limit_{part}_batches=2" for part in ("train", "val", "test")]
    metrics = train(composed(f"experiment={name}", *few, "trainer.max_epochs=1"), tmp_path / "run")
    assert metrics["dataset"] == "imdb"
    assert metrics["data"]["reviews"] == {"train": 20_000, "val": 5_000, "test": 25_000}
    assert metrics["data"]["vocab_size"] == 20_000  # rows of the embedding, but for padding
    assert metrics["data"]["padding"] < 0.02
    assert metrics["data"]["duplicates"]["test in train"] > 0  # the dataset is known for them


@pytest.mark.real
@pytest.mark.slow
def test_the_reports_loss_curve_is_the_loops_over_100_steps(
    real_data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMDB_DATA", real_data)
    curves = []
    for implementation in ("fused", "loop"):
        way = f"model.implementation={implementation}"
        cfg = composed("experiment=report/custom_lstm", way)
        torch.manual_seed(cfg.seed)
        data = ReviewDataModule(cfg.data, cfg.seed)
        data.setup()
        model = Classifier.from_config(cfg.model, cfg.optim)
        optimizer = model.configure_optimizers()
        losses = []
        for batch, _ in zip(data.train_dataloader(), range(100), strict=False):
            optimizer.zero_grad()
            loss = model._step(batch, "train")
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert max(abs(f - u) for f, u in zip(*curves, strict=True)) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("name", GROUPS["model"])
def test_a_gpu_computes_the_same_as_a_cpu(name: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    overrides = [*TINY, f"model={name}", "model.dropout=0", "trainer.precision=64-true"]
    cpu = train(composed(*overrides, "trainer=cpu"), tmp_path / "cpu")
    gpu = train(composed(*overrides, "trainer=gpu"), tmp_path / "gpu")
    for mine, theirs in zip(gpu["epochs"], cpu["epochs"], strict=True):
        assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-6)


# Runs that end early


OWN_CELL = """
import torch
from imdb_lightning import Cell

class Mine(Cell):
    def __init__(self, input_size, hidden_size, fails_after=10**9):
        super().__init__(input_size, hidden_size, gates=1)
        self.left = fails_after

    def forward(self, x_BI, state):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the cell gave up")
        (h_BH,) = state
        x = torch.nn.functional.linear(x_BI, self.weight_ih, self.bias_ih)
        return (torch.tanh(x + torch.nn.functional.linear(h_BH, self.weight_hh, self.bias_hh)),)
"""
WITH_OWN_CELL = [*TINY, "model=custom_rnn", "model.cell._target_=my_cells.Mine", "model.name=mine"]


def the_run(folder: Path) -> Run:
    (path,) = (folder / "outputs").iterdir()
    return Run(path)


@pytest.mark.slow
def test_a_third_party_cell_trains_without_a_change_to_the_package(tmp_path: Path) -> None:
    (tmp_path / "my_cells.py").write_text(OWN_CELL)
    done = command(tmp_path, *WITH_OWN_CELL, "model.hidden_size=8", "model.embedding_size=8")
    assert done.returncode == 0, done.stderr
    assert the_run(tmp_path).metrics["model"] == "mine"
    assert "synthetic_mine" in the_run(tmp_path).path.name


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("nowhere.Cell", "No module named 'nowhere'"),
        ("torch.nn.LSTM", "it does not return a tensor or a tuple of tensors"),
        ("my_cells.Mine +model.cell.depth=3", "unexpected keyword argument 'depth'"),
    ],
)
def test_a_cell_that_cannot_be_instantiated_is_one_line(
    target: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "my_cells.py").write_text(OWN_CELL)
    cell = f"model.cell._target_={target}".split()
    done = command(tmp_path, *TINY, "model=custom_rnn", *cell)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"imdb_lightning: {cell[0]}: ")
    assert expected in line
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_failed_run_exits_with_1_and_keeps_its_files(tmp_path: Path) -> None:
    (tmp_path / "my_cells.py").write_text(OWN_CELL)
    done = command(tmp_path, *WITH_OWN_CELL, "+model.cell.fails_after=900")
    assert done.returncode == 1
    assert "the cell gave up" in done.stdout
    metrics = the_run(tmp_path).metrics
    assert metrics["status"] == "failed"
    assert metrics["error"] == "RuntimeError: the cell gave up"
    assert len(metrics["epochs"]) == 1
    weights(the_run(tmp_path).last)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_a_checkpoint(number: int, code: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "imdb_lightning", *TINY, "trainer.max_epochs=100000"],
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch      2/" in line:  # so that the checkpoints of the first one are there
            break
    process.send_signal(number)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == code
    assert "Traceback" not in rest
    run = the_run(tmp_path)
    assert run.metrics["status"] == "interrupted"
    assert run.metrics["epochs"]
    weights(run.last)
    weights(run.best)


def test_two_runs_never_share_a_directory(tmp_path: Path) -> None:
    train(composed(*TINY), tmp_path / "run")
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    with pytest.raises(RunExistsError, match="already contains a run"):
        train(composed(*TINY, "seed=1"), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(tmp_path / "run", {"status": "running"})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        run.write_metrics({"status": "done"})
    assert run.metrics == {"status": "running"}
    assert [file.name for file in run.path.iterdir()] == ["metrics.json"]


# The command line


def test_a_wrong_command_line_exits_with_2_and_creates_nothing(tmp_path: Path) -> None:
    done = command(tmp_path, "model=grru", "optim.lr=-1", "data.sise=3", "--multirun")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3
    assert all(line.startswith("imdb_lightning: ") for line in done.stderr.splitlines())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_one_line(tmp_path: Path) -> None:
    done = command(tmp_path, "trainer=gpu", *TINY[:-2])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no such device; use trainer=cpu or auto" in line
    assert list(tmp_path.iterdir()) == []


def test_no_reviews_and_no_fallback_is_one_line(tmp_path: Path) -> None:
    done = command(tmp_path, "experiment=report/rnn")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(way in line for way in ("IMDB_DATA", "data/imdb", "network"))
    assert list(tmp_path.iterdir()) == []


def test_without_reviews_the_fallback_is_used_and_reported(tmp_path: Path) -> None:
    small = [text for text in TINY if text != "data=synthetic"]
    done = command(tmp_path, *small, "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert "training on the synthetic corpus instead" in done.stderr
    run = the_run(tmp_path)
    assert run.metrics["dataset"] == "synthetic"
    assert "synthetic" in run.path.name
    assert run.config.data.name == "synthetic"


@pytest.mark.slow
def test_a_grid_has_a_readable_directory_for_each_job(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    tiny = OmegaConf.from_dotlist([text for text in TINY if "." in text.split("=")[0]])
    content = "# @package _global_\ndefaults: [{override /data: synthetic}]\n"
    (tmp_path / "conf/experiment/tiny.yaml").write_text(content + OmegaConf.to_yaml(tiny))
    grid = ["experiment=tiny", "seed=1", "model=rnn,custom_gru"]
    done = command(tmp_path, "-m", "--config-dir", "conf", *grid)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    names = {path.name for path in sweep.iterdir() if path.is_dir()}
    assert names == {"tiny,model=rnn,synthetic", "tiny,model=custom_gru,synthetic"}
    for name in names:
        metrics = Run(sweep / name).metrics
        assert metrics["status"] == "done"
        assert metrics["seed"] == 1
        assert f"model={metrics['model']}" in name


@pytest.mark.slow
def test_a_grid_with_a_failure_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "my_cells.py").write_text(OWN_CELL)
    done = command(tmp_path, "-m", *WITH_OWN_CELL, "+model.cell.fails_after=0", "seed=0,1")
    assert done.returncode == 1
    assert "the cell gave up" in done.stdout


NO_SOCKETS = """
import runpy, sys
def hook(event, arguments):
    if event in ("socket.__new__", "socket.getaddrinfo", "socket.connect"):
        raise SystemExit(f"opened a socket: {event} {arguments}")
sys.addaudithook(hook)
sys.argv[1:] = ["experiment=smoke"]
runpy.run_module("imdb_lightning", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_smoke_opens_no_socket_and_writes_only_its_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_SOCKETS],
        cwd=tmp_path,
        env={k: v for k, v in environment(tmp_path).items() if k != "HF_HUB_OFFLINE"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert the_run(tmp_path).metrics["test/acc"] > 0.8


@pytest.mark.parametrize("option", ["--help", "--cfg=job", "--info=config"])
def test_questions_are_answered_and_nothing_is_created(option: str, tmp_path: Path) -> None:
    done = command(tmp_path, *option.split("="))
    assert done.returncode == 0, done.stderr
    assert "model" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", ["--cfg job -m", "--config-name nope", "--config-path /tmp"])
def test_invalid_flags_are_one_line(flags: str, tmp_path: Path) -> None:
    done = command(tmp_path, *flags.split())
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
