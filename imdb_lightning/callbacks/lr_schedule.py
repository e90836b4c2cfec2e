"""The learning rate schedule."""

from __future__ import annotations

import math
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


PCT_START = 0.3  # fraction 0..1 of the steps in which the rate rises
DIV_FACTOR = 25  # the highest learning rate over the first one


class OneCycle(Callback):
    """One rise and one fall of the learning rate over the run: a pure function of the step.

    Smith and Topin 2018, "Super-convergence", as torch's OneCycleLR computes it, without its cycle
    of momentum.
    """

    def on_train_batch_start(
        self, trainer: lightning.Trainer, model: Any, batch: Any, batch_idx: int
    ) -> None:
        assert trainer.max_epochs is not None
        batches = int(trainer.num_training_batches)
        steps = trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches)
        progress = trainer.global_step / steps
        for group in trainer.optimizers[0].param_groups:
            highest = group.setdefault("highest_lr", group["lr"])  # saved in checkpoints
            group["lr"] = one_cycle(progress) * highest


def one_cycle(progress: float) -> float:
    """Fraction 0..1 of the highest learning rate after this fraction of the run."""
    if progress < PCT_START:
        return 1 / DIV_FACTOR + (1 - 1 / DIV_FACTOR) * half_cosine(progress / PCT_START)
    return 1 - half_cosine((progress - PCT_START) / (1 - PCT_START))


def half_cosine(x: float) -> float:
    """From 0 at 0 to 1 at 1."""
    return (1 - math.cos(math.pi * x)) / 2
