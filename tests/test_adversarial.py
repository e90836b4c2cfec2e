"""Adversarial training: where a review is moved to, and what is learned there.

pytest tests/test_adversarial.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from imdb_lightning.adversarial import Adversarial, away
from imdb_lightning.data.module import ReviewData
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.train import quiet
from tests.conftest import TINY, composed


def step(
    tmp_path: Path, *overrides: str, callbacks: Any = ()
) -> tuple[Classifier, list[torch.Tensor]]:
    """A classifier after a step of training in float64, and its gradients."""
    cfg = composed(*TINY, *overrides)
    lightning.seed_everything(0, verbose=False)
    data = ReviewData(cfg.data, 0)
    data.setup()
    quiet()
    model = Classifier.from_config(cfg.model, cfg.optim).double()
    gradients: list[torch.Tensor] = []

    class Keep(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            gradients[:] = [p.grad.clone() for p in module.parameters()]

    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=1,
        callbacks=[*callbacks, Keep()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        deterministic=True,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
    ).fit(model, datamodule=data)
    return model, gradients


def test_reviews_are_moved_along_the_gradient_by_a_part_of_their_norm() -> None:
    torch.manual_seed(0)
    x_TBE, gradient_TBE = torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    gradient_TBE[:, 2] = 0
    lengths_B = torch.tensor([6, 2, 4])
    moved_TBE = away(x_TBE, gradient_TBE, lengths_B, 0.1)
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
    _, gradients = step(tmp_path, *options, callbacks=[Adversarial(0.05)])

    cfg = composed(*TINY, *options)
    lightning.seed_everything(0, verbose=False)
    data = ReviewData(cfg.data, 0)
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
    moved = loss_of(x_TBE + away(x_TBE.detach(), slope_TBE, lengths_B, 0.05))
    assert moved > loss
    expected = torch.autograd.grad(loss + moved, [*by_hand.parameters()])
    assert not torch.equal(states, after_embedding)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
