"""Numbers that are not finite end a run, before they reach the weights."""

from __future__ import annotations

import json
import math
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from . import durable
from .run import Run


class NotFinite(Exception):
    """A loss or gradients that are infinite or no number."""


class Finite(Callback):
    """Stops before the step that would spoil the weights, and writes not_finite.json."""

    def __init__(self, run: Run) -> None:
        self.file = run.path / "not_finite.json"
        self.file.unlink(missing_ok=True)  # of an earlier process
        self.losses: list[Tensor] = []  # of the batches of one step
        self.reviews: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, model: Any, batch: Any, batch_idx: int
    ) -> None:
        self.reviews.append(batch[3])

    def on_before_backward(
        self, trainer: lightning.Trainer, model: lightning.LightningModule, loss: Tensor
    ) -> None:
        self.losses.append(loss.detach())

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        model: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        losses, reviews = self.losses, self.reviews
        self.losses, self.reviews = [], []
        # A sum is finite where all its parts are, and a third of the time of their norm.
        sums = [*losses, *(gradient.sum() for gradient in gradients)]
        if trainer.precision == "16-mixed":  # there the scaler passes over steps that overflow
            sums = losses
        if math.isfinite(torch.stack(sums).sum().item()):
            return
        norm = nn.utils.get_total_norm(gradients)
        facts = {
            "epoch": trainer.current_epoch + 1,
            "batch": trainer.fit_loop.epoch_loop.batch_progress.current.ready,
            "step": trainer.global_step + 1,
            "loss": str(torch.stack(losses).mean().item()),  # JSON has no word for these
            "gradient_norm": str(norm.item()),
            "lr": optimizer.param_groups[0]["lr"],
            "reviews": torch.cat(reviews).tolist(),
        }
        durable.write(self.file, (json.dumps(facts) + "\n").encode())
        raise NotFinite(
            f"step {facts['step']} (epoch {facts['epoch']}, batch {facts['batch']}): loss "
            f"{facts['loss']}, gradient norm {facts['gradient_norm']} at learning rate "
            f"{facts['lr']:g}; its reviews are in {self.file}; a smaller optim.lr or "
            "trainer.gradient_clip_val=1 may help"
        )

    def on_validation_end(self, trainer: lightning.Trainer, model: Any) -> None:
        loss = model.measures("val")["loss"]
        if not math.isfinite(loss):
            raise NotFinite(f"epoch {trainer.current_epoch + 1}: the loss on val is {loss}")

    def on_test_end(self, trainer: lightning.Trainer, model: Any) -> None:
        loss = model.measures("test")["loss"]
        if not math.isfinite(loss):
            raise NotFinite(f"the loss on test is {loss}")
