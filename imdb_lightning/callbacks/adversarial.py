"""Adversarial training in embedding space.

Dimensions: T tokens, B reviews, E embedding size.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ..model.padding import padding_mask
from ..runtime.random_state import get_random_state, set_random_state


class AdversarialTraining(Callback):
    """A second pass over each batch with adversarial perturbations of its embeddings.

    Miyato, Dai and Goodfellow 2017, "Adversarial training methods for semi-supervised text
    classification", equations (5) and (6): r = eps * g / |g|, with g the gradient of the loss with
    respect to the embedded review. There the embedding is normalised to give eps a scale; here |r|
    is `epsilon` times the norm of the embedded review. The gradients of both passes are added, with
    the same dropout masks.
    """

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon
        self.batch: Any = None
        self.embedded_TBE: Tensor | None = None
        self.perturbation_TBE: Tensor | None = None

    def setup(self, trainer: lightning.Trainer, model: Any, stage: str) -> None:
        if stage == "fit":
            self.hooks = [
                model.word_dropout.register_forward_pre_hook(self._before_dropout),
                model.feature_dropout.register_forward_hook(self._after_embedding),
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
        self.perturbation_TBE = perturbation(x_TBE, self.embedded_TBE.grad, lengths_B, self.epsilon)
        after = get_random_state(model.device)
        set_random_state(self.random_state, model.device)
        with trainer.precision_plugin.train_step_context():
            loss_B, _ = model.losses(self.batch)
            loss = model.mean(loss_B, self.batch) / trainer.accumulate_grad_batches
        loss.backward()
        set_random_state(after, model.device)
        self.embedded_TBE = self.perturbation_TBE = None

    def _before_dropout(self, module: Any, inputs: Any) -> None:
        """Word dropout is the first thing in a step that draws random numbers."""
        if module.training and self.perturbation_TBE is None:
            self.random_state = get_random_state(inputs[0].device)

    def _after_embedding(self, module: Any, inputs: Any, x_TBE: Tensor) -> Tensor | None:
        if not module.training:
            return None
        if self.perturbation_TBE is not None:
            return x_TBE + self.perturbation_TBE
        x_TBE.retain_grad()
        self.embedded_TBE = x_TBE
        return None


def perturbation(x_TBE: Tensor, gradient_TBE: Tensor, lengths_B: Tensor, epsilon: float) -> Tensor:
    """r_TBE along the gradient, |r| = epsilon * |x| over a review's tokens; 0 in padding."""
    padding_TB1 = padding_mask(lengths_B, len(x_TBE)).unsqueeze(2)
    x_TBE, gradient_TBE = (y.masked_fill(padding_TB1, 0) for y in (x_TBE, gradient_TBE))
    norm_1B1, slope_1B1 = (y.norm(dim=(0, 2), keepdim=True) for y in (x_TBE, gradient_TBE))
    return gradient_TBE * torch.where(slope_1B1 > 0, epsilon * norm_1B1 / slope_1B1, 0)
