"""Adversarial training on the embedded words.

Dimensions: T tokens, B reviews, E embedding size.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from .checkpoint import random_states, set_random_states


class Adversarial(Callback):
    """Each batch once more, with every review moved to where its loss rises most.

    Miyato, Dai and Goodfellow 2017, "Adversarial training methods for semi-supervised text
    classification", equations (5) and (6): r = eps * g / |g|, with g the gradient of the loss by
    the review's embedded words. There the embedding is normalised to give eps a scale; here |r| is
    `reach` times the norm of the embedded review. The gradients of both passes add up, under the
    same dropout.
    """

    def __init__(self, reach: float) -> None:
        self.reach = reach
        self.batch: Any = None
        self.embedded_TBE: Tensor | None = None
        self.moved_TBE: Tensor | None = None

    def setup(self, trainer: lightning.Trainer, model: Any, stage: str) -> None:
        if stage == "fit":
            self.hooks = [
                model.word_dropout.register_forward_pre_hook(self._before),
                model.feature_dropout.register_forward_hook(self._embedded),
            ]

    def teardown(self, trainer: lightning.Trainer, model: Any, stage: str) -> None:
        if stage == "fit":
            for hook in self.hooks:
                hook.remove()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, model: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batch = batch

    def on_after_backward(self, trainer: lightning.Trainer, model: Any) -> None:
        assert self.embedded_TBE is not None and self.embedded_TBE.grad is not None
        x_TBE, lengths_B = self.embedded_TBE.detach(), self.batch[1]
        self.moved_TBE = away(x_TBE, self.embedded_TBE.grad, lengths_B, self.reach)
        after = random_states(model.device)
        set_random_states(self.random, model.device)
        with trainer.precision_plugin.train_step_context():
            loss = model.batch_loss(self.batch) / trainer.accumulate_grad_batches
        loss.backward()
        set_random_states(after, model.device)
        self.embedded_TBE = self.moved_TBE = None

    def _before(self, module: Any, inputs: Any) -> None:
        """The first thing that a pass draws at random is which words to drop."""
        if module.training and self.moved_TBE is None:
            self.random = random_states(inputs[0].device)

    def _embedded(self, module: Any, inputs: Any, x_TBE: Tensor) -> Tensor | None:
        if not module.training:
            return None
        if self.moved_TBE is not None:
            return x_TBE + self.moved_TBE
        x_TBE.retain_grad()
        self.embedded_TBE = x_TBE
        return None


def away(x_TBE: Tensor, gradient_TBE: Tensor, lengths_B: Tensor, reach: float) -> Tensor:
    """r_TBE along the gradient, |r| = reach * |x| over a review's tokens; 0 after its end."""
    ended_TB1 = (torch.arange(len(x_TBE), device=x_TBE.device)[:, None] >= lengths_B)[:, :, None]
    x_TBE, gradient_TBE = (y.masked_fill(ended_TB1, 0) for y in (x_TBE, gradient_TBE))
    size_1B1, slope_1B1 = (y.norm(dim=(0, 2), keepdim=True) for y in (x_TBE, gradient_TBE))
    return gradient_TBE * torch.where(slope_1B1 > 0, reach * size_1B1 / slope_1B1, 0)
