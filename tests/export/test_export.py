"""An export computes what the model computes, whatever the model, the length and the batch.

pytest tests/export/test_export.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from imdb_lightning.explain.explanation import explain
from imdb_lightning.export import export, model_card, onnx
from imdb_lightning.export.export import ExportError
from imdb_lightning.inference import load
from tests.conftest import run_of


MODELS = {
    "rnn": "model=rnn model.pooling=max",
    "lstm": "model=lstm model.num_layers=2 model.bidirectional=true model.pooling=mean_max",
    "gru": "model=gru model.pooling=last model.bidirectional=true",
    "custom_rnn": "model=custom_rnn model.pooling=last",
    "custom_lstm": "model=custom_lstm model.pooling=mean_padded",
    "custom_gru": "model=custom_gru model.bidirectional=true",
    "custom_gru, reset after": "model=custom_gru model.cell.reset=after",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    short = "trainer.max_epochs=1"
    return {
        name: run_of(folder / name, short, *options.split()) for name, options in MODELS.items()
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("onnx", name) for name in MODELS),
        ("safetensors", "lstm"),
        *(pytest.param("pt2", name, marks=pytest.mark.slow) for name in MODELS),
    ],
)
def test_an_export_computes_the_same(
    kind: str, name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    model = load(runs[name])
    gap = export.export(model, kind, tmp_path / "out")
    assert gap <= 1e-5
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["MODEL_CARD.md", "config.json", f"model.{kind}", "tokenizer.json"]
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["model"]["name"] == model.config["model"]["name"]


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_run_of_any_precision_is_exported_and_explained(precision: str, tmp_path: Path) -> None:
    options = ["model=custom_gru", "trainer.max_epochs=1", f"trainer.precision={precision}"]
    model = load(run_of(tmp_path / "run", *options))
    assert export.export(model, "onnx", tmp_path / "out") <= 1e-5
    assert np.isfinite(explain(model, "a superb film").contribution_T).all()


def test_an_exported_folder_predicts_as_the_run_does(runs: dict[str, Path], tmp_path: Path) -> None:
    model = load(runs["lstm"])
    export.export(model, "safetensors", tmp_path / "out")
    texts = ["a superb film", "", "awful " * 100]
    assert load(tmp_path / "out").predict(texts) == model.predict(texts)


def test_an_export_that_differs_is_not_written(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(runs["rnn"])
    monkeypatch.setitem(onnx.ORDERS, "RNN", [0])
    original = onnx.weights_of

    def wrong(layer: torch.nn.Module, kind: str) -> tuple[torch.Tensor, ...]:
        W, R, bias = original(layer, kind)
        return W, R.flip(0), bias

    monkeypatch.setattr(onnx, "weights_of", wrong)
    with pytest.raises(ExportError, match="nothing is written"):
        export.export(model, "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_model_card_describes_the_model(runs: dict[str, Path], tmp_path: Path) -> None:
    model = load(runs["custom_lstm"])
    export.export(model, "safetensors", tmp_path / "out")
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text("utf-8")
    for text in ("synthetic", "64 train, 16 val, 16 test", "hidden_size: 8", "torch: ", "seed 0"):
        assert text in card
    assert f"{model.metrics['test/acc']:.4f}" in card
    assert "it knows nothing about real ones" in card
    assert "| val | " in card and "Temperature" in card
    model.metrics["train_on_val"] = True
    card = model_card.text(model)
    assert "| val | " not in card and "Temperature" not in card and "Trained on val too" in card
