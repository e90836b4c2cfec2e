"""Averaged weights: that they are what is validated, saved and tested.

pytest tests/test_averaging.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from imdb_lightning import checkpoint
from imdb_lightning.evaluate import split
from imdb_lightning.report.runs import read_predictions
from imdb_lightning.train import train
from imdb_lightning.trained import load
from tests.conftest import TINY, composed, run_of


@pytest.mark.slow
def test_the_average_is_what_is_validated_saved_and_tested(tmp_path: Path) -> None:
    """An average of which no step becomes a part but the first stays as it was after that."""
    options = [*TINY, "model=rnn", "optim.lr=0.05", "optim.average=0.999999999"]
    for which in ("last", "best"):
        cfg = composed(*options, f"test_checkpoint={which}", "trainer.max_epochs=3")
        metrics = train(cfg, tmp_path / which)
        losses = {
            split: [epoch[f"{split}/loss"] for epoch in metrics["epochs"]]
            for split in ("train", "val")
        }
        assert max(losses["val"]) - min(losses["val"]) < 1e-6
        assert max(losses["train"]) - min(losses["train"]) > 1e-3
        saved = checkpoint.read(tmp_path / which / "checkpoints" / "last.ckpt")
        own, current = saved["state_dict"], saved["current_model_state"]
        assert any(not torch.equal(own[name], current[name]) for name in own)


def test_the_average_gives_way_to_the_best_weights(tmp_path: Path) -> None:
    """Predictions on val are those of the weights that are tested."""
    options = ("model=rnn", "optim.lr=0.05", "optim.average=0.5", "trainer.max_epochs=6")
    run = run_of(tmp_path / "run", *options, "test_checkpoint=best", "seed=2")
    model = load(run)
    for name in ("val", "test"):
        texts, _ = split(model, name, [])
        logits = read_predictions(run / "predictions.parquet")[name].logit
        torch.testing.assert_close(model.logits(texts), logits, rtol=1e-4, atol=1e-5)
