"""Runs on a GPU: no waiting in a step, resume, several on one card, and their models on a CPU.

pytest tests/test_gpu.py -m gpu
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pyarrow.parquet
import pytest
import torch

from imdb_lightning import load
from imdb_lightning.callbacks.non_finite import NonFiniteGuard
from imdb_lightning.data.batches import DeviceLoader
from imdb_lightning.data.datamodule import ReviewDataModule
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.model.step_graphs import StepGraphs
from imdb_lightning.runs.run import Run
from imdb_lightning.runtime import process
from imdb_lightning.runtime.random_state import get_random_state, set_random_state
from imdb_lightning.train import train
from tests.conftest import TINY, command, composed, environment, run_of


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

ON_GPU = [override for override in TINY if override != "trainer=cpu"] + ["trainer=gpu"]


class NoWaiting(lightning.Callback):
    """After the first epoch, whatever makes the processor wait for the GPU in a step raises."""

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.current_epoch > 0:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(
    ("model", "pooling"),
    [("lstm", "mean"), ("gru", "last"), ("custom_rnn", "max"), ("custom_gru", "mean_padded")],
)
@pytest.mark.parametrize("graphs", [True, False])
def test_a_training_step_waits_for_nothing(
    model: str, pooling: str, graphs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.ignore_lightning_warnings()
    if not graphs:
        monkeypatch.setattr(StepGraphs, "is_supported", lambda *_: False)
    cfg = composed(*ON_GPU, f"model={model}", f"model.pooling={pooling}")
    data = ReviewDataModule(cfg.data, cfg.seed)
    data.setup()
    (tmp_path / "run").mkdir()
    trainer = lightning.Trainer(
        accelerator="gpu",
        devices=1,
        max_epochs=3,
        deterministic=True,
        callbacks=[NonFiniteGuard(Run(tmp_path / "run")), NoWaiting()],
        logger=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with process.preserve_global_state():
        trainer.fit(Classifier.from_config(cfg.model, cfg.optim), datamodule=data)
    assert isinstance(trainer.train_dataloader, DeviceLoader)


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru", "custom_rnn", "custom_gru"])
def test_captured_steps_are_those_without_graphs(model: str, tmp_path: Path) -> None:
    overrides = [*ON_GPU, f"model={model}", "model.dropout=0", "model.pooling=mean"]
    graphs = train(composed(*overrides), tmp_path / "graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepGraphs, "is_supported", lambda *_: False)
        without = train(composed(*overrides), tmp_path / "without")
    for mine, theirs in zip(graphs["epochs"], without["epochs"], strict=True):
        assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-3)


def test_steps_are_captured_and_dropout_is_redrawn(tmp_path: Path) -> None:
    cfg = composed(*ON_GPU, "model=custom_gru", "model.dropout=0.5")
    data = ReviewDataModule(cfg.data, cfg.seed)
    data.setup()
    net = Classifier.from_config(cfg.model, cfg.optim).cuda()
    given = [t.cuda() for t in data.splits["train"].__getitems__([*range(8)])]
    torch.cuda.manual_seed(3)
    first = [net.step_graphs(net, given)[0].item() for _ in range(4)]  # type: ignore[index]
    assert len(set(first)) == 4
    torch.cuda.manual_seed(3)
    again = [net.step_graphs(net, given)[0].item() for _ in range(4)]  # type: ignore[index]
    assert again == first
    other = StepGraphs()  # captured again, at another random state
    torch.cuda.manual_seed(3)
    assert [other(net, given)[0].item() for _ in range(4)] == first  # type: ignore[index]


def test_non_finite_numbers_stop_the_run_before_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "run"
    overrides = [*ON_GPU, "model=custom_gru", "optim.lr=1e30", "trainer.max_epochs=3"]
    with pytest.raises(Exception, match="loss (inf|nan), gradient norm"):
        train(composed(*overrides), path)
    details = json.loads((path / "non_finite.json").read_text("utf-8"))
    assert 1 <= details["step"] <= 24
    for file in (path / "checkpoints").glob("*.ckpt"):
        state = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("model", ["lstm", "custom_gru"])
def test_a_run_resumes_to_the_same_bits(model: str, tmp_path: Path) -> None:
    overrides = [*ON_GPU, f"model={model}", "model.dropout=0.5"]
    whole = run_of(tmp_path / "whole", tiny=overrides)
    short = run_of(tmp_path / "short", "trainer.max_epochs=1", tiny=overrides)
    resumed = composed(*overrides, f"resume={short}")
    train(resumed, short)
    weights = [
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")[
            "state_dict"
        ]
        for path in (whole, short)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_random_states_are_those_of_the_gpu_too() -> None:
    device = torch.device("cuda", 0)
    states = get_random_state(device)
    first = torch.rand(5, device=device)
    set_random_state(states, device)
    assert torch.equal(first, torch.rand(5, device=device))


def test_two_runs_share_a_gpu(tmp_path: Path) -> None:
    done = command(
        tmp_path,
        *("-m", *ON_GPU, "model=custom_gru", "seed=0,1", "hydra.sweep.dir=grid"),
        *("hydra/launcher=local_pool", "hydra.launcher.n_jobs=2"),
    )
    assert done.returncode == 0, done.stderr
    runs = [
        json.loads(file.read_text("utf-8")) for file in (tmp_path / "grid").rglob("metrics.json")
    ]
    assert [run["status"] for run in runs] == ["done", "done"]
    assert all(run["device"] == torch.cuda.get_device_name() for run in runs)


@pytest.mark.parametrize("model", ["lstm", "custom_gru"])
def test_a_run_from_a_gpu_is_used_on_a_cpu(model: str, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", f"model={model}", tiny=ON_GPU)
    variables = {**environment(tmp_path), "CUDA_VISIBLE_DEVICES": ""}

    def ask(name: str, *arguments: object, text: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", f"imdb_lightning.{name}", *map(str, arguments)],
            input=text,
            env=variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = [json.loads(line) for line in ask("predict", run, "-", "--json", text="good\nbad\n")
             .splitlines()]  # fmt: skip
    assert len(found) == 2
    assert "token" in ask("explain", run, "a good film")
    ask("export", run, "--format", "onnx", "--output", tmp_path / "export")

    predictor = load(run)
    cfg = composed(*ON_GPU, f"model={model}")
    data = ReviewDataModule(cfg.data, cfg.seed)
    data.setup()
    with torch.no_grad():
        tokens, lengths, _, index = data.splits["test"].__getitems__([*range(16)])
        logits = predictor.network(tokens, lengths)
    rows = pyarrow.parquet.read_table(run / "predictions.parquet").to_pylist()
    there = {row["index"]: row["logit"] for row in rows if row["split"] == "test"}
    for n, logit in zip(index.tolist(), (logits[:, 1] - logits[:, 0]).tolist(), strict=True):
        assert there[n] == pytest.approx(logit, abs=1e-2)  # of products rounded to TF32
