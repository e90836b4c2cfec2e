"""EMA and adversarial training.

pytest tests/callbacks
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from imdb_lightning.callbacks.adversarial import AdversarialTraining, perturbation
from imdb_lightning.data.datamodule import ReviewDataModule
from imdb_lightning.data.split import reviews_of_split
from imdb_lightning.inference import load
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.runs import checkpoint, predictions
from imdb_lightning.runtime import process
from imdb_lightning.train import train
from tests.conftest import TINY, composed, plain_trainer, run_of


def fit(
    tmp_path: Path,
    *overrides: str,
    callbacks: Any = (),
    epochs: int = 1,
    steps: int | None = None,
    batches_a_step: int = 1,
) -> tuple[Classifier, list[torch.Tensor]]:
    """A classifier after training in float64, and its gradients at the last step."""
    cfg = composed(*TINY, *overrides)
    lightning.seed_everything(0, verbose=False)
    data = ReviewDataModule(cfg.data, 0)
    data.setup()
    process.ignore_lightning_warnings()
    model = Classifier.from_config(cfg.model, cfg.optim).double()
    gradients: list[torch.Tensor] = []

    class Keep(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            gradients[:] = [p.grad.clone() for p in module.parameters()]

    plain_trainer(
        tmp_path,
        max_epochs=epochs,
        limit_train_batches=steps,
        accumulate_grad_batches=batches_a_step,
        callbacks=[*callbacks, Keep()],
    ).fit(model, datamodule=data)
    return model, gradients


@pytest.mark.slow
def test_the_average_is_validated_saved_and_tested(tmp_path: Path) -> None:
    """An average of which no step becomes a part but the first stays as it was after that."""
    options = [*TINY, "model=rnn", "optim.lr=0.05", "optim.ema_decay=0.999999999"]
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


def test_the_best_weights_replace_the_average(tmp_path: Path) -> None:
    """Predictions on val are those of the weights that are tested."""
    options = ("model=rnn", "optim.lr=0.05", "optim.ema_decay=0.5", "trainer.max_epochs=6")
    run = run_of(tmp_path / "run", *options, "test_checkpoint=best", "seed=2")
    model = load(run)
    for name in ("val", "test"):
        texts, _ = reviews_of_split(model.data, name)
        logits = predictions.read(run / "predictions.parquet", "val", "test")[name].logit
        np.testing.assert_allclose(model.logits(texts), logits, rtol=1e-4, atol=1e-5)


# Adversarial training


def test_reviews_are_moved_along_the_gradient_by_a_part_of_their_norm() -> None:
    torch.manual_seed(0)
    x_TBE, gradient_TBE = torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    gradient_TBE[:, 2] = 0
    lengths_B = torch.tensor([6, 2, 4])
    moved_TBE = perturbation(x_TBE, gradient_TBE, lengths_B, 0.1)
    for review, length in enumerate(lengths_B.tolist()[:2]):
        own, slope = x_TBE[:length, review], gradient_TBE[:length, review]
        torch.testing.assert_close(
            moved_TBE[:length, review], 0.1 * own.norm() * slope / slope.norm()
        )
        assert (moved_TBE[length:, review] == 0).all()
    assert (moved_TBE[:, 2] == 0).all()


@pytest.mark.parametrize("model", ["lstm", "custom_gru"])
def test_gradients_are_those_of_both_passes(model: str, tmp_path: Path) -> None:
    """By hand: the loss of the batch, and that of the moved one, under the same dropout."""
    dropouts = ["model.dropout=0.5", "model.embedding_dropout=0.3", "model.word_dropout=0.2"]
    options = [f"model={model}", "model.bidirectional=true", *dropouts]
    _, gradients = fit(tmp_path, *options, callbacks=[AdversarialTraining(0.05)], steps=1)

    cfg = composed(*TINY, *options)
    lightning.seed_everything(0, verbose=False)
    data = ReviewDataModule(cfg.data, 0)
    data.setup()
    by_hand = Classifier.from_config(cfg.model, cfg.optim).double()
    loader = iter(data.train_dataloader())
    batch = next(loader)
    tokens_BT, lengths_B, labels_B, _ = batch
    states = torch.get_rng_state()
    x_TBE = by_hand.feature_dropout(
        by_hand.word_dropout(by_hand.embedding(tokens_BT.T), tokens_BT.T)
    )

    def loss_of(y_TBE: torch.Tensor) -> torch.Tensor:
        logits_B2 = by_hand.from_embeddings(y_TBE, lengths_B)
        return torch.nn.functional.cross_entropy(logits_B2, labels_B)

    after_embedding = torch.get_rng_state()
    loss = loss_of(x_TBE)
    (slope_TBE,) = torch.autograd.grad(loss, x_TBE, retain_graph=True)
    torch.set_rng_state(after_embedding)
    moved = loss_of(x_TBE + perturbation(x_TBE.detach(), slope_TBE, lengths_B, 0.05))
    assert moved > loss
    expected = torch.autograd.grad(loss + moved, [*by_hand.parameters()])
    assert not torch.equal(states, after_embedding)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
