"""Numbers that are not finite end a run, before they reach the weights."""

from __future__ import annotations

import json
import math
from collections import deque
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from . import durable
from .run import Run


class NotFinite(Exception):
    """A loss or gradients that are infinite or no number."""


SLOTS = 64  # steps that a GPU may be ahead of the last look at its numbers


class Step(NamedTuple):
    """A step of training whose loss and gradient norm may still be on their way."""

    epoch: int  # from 1
    batch: int
    number: int
    lr: float
    reviews: list[Tensor]
    numbers: Tensor  # (2,): mean loss, gradient norm
    arrived: torch.cuda.Event | None


class Finite(Callback):
    """Stops before the step that would spoil the weights, and writes not_finite.json.

    On a GPU the step itself is not waited for: the fused optimizer leaves the weights as they are
    from the first bad step on, and the run ends when that step's numbers have arrived, at the
    latest before anything is saved.
    """

    def __init__(self, run: Run) -> None:
        self.file = run.path / "not_finite.json"
        self.file.unlink(missing_ok=True)  # of an earlier process
        self.losses: list[Tensor] = []  # of the batches of one step
        self.reviews: list[Tensor] = []
        self.pending: deque[Step] = deque()
        self.spoilt: Tensor | None = None  # 1 on the GPU from the first bad step on
        self.slots: Tensor | None = None

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
        step = Step(
            trainer.current_epoch + 1,
            trainer.fit_loop.epoch_loop.batch_progress.current.ready,
            trainer.global_step + 1,
            optimizer.param_groups[0]["lr"],
            reviews,
            torch.empty(0),
            None,
        )
        if losses[0].is_cuda and optimizer.defaults.get("fused"):
            self._watch(step, losses, gradients, optimizer)
            return
        # A sum is finite where all its parts are, and a third of the time of their norm.
        sums = [*losses, *(gradient.sum() for gradient in gradients)]
        if trainer.precision == "16-mixed":  # there the scaler passes over steps that overflow
            sums = losses
        if math.isfinite(torch.stack(sums).sum().item()):
            return
        norm = nn.utils.get_total_norm(gradients)
        self._end(step._replace(numbers=torch.stack([torch.stack(losses).mean(), norm])))

    def _watch(
        self,
        step: Step,
        losses: list[Tensor],
        gradients: list[Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Have the GPU leave out the update where the numbers are bad, and look at them later."""
        numbers = torch.stack([torch.stack(losses).mean(), nn.utils.get_total_norm(gradients)])
        bad = numbers.isfinite().all().logical_not().float()
        self.spoilt = bad if self.spoilt is None else torch.maximum(self.spoilt, bad)
        setattr(optimizer, "found_inf", self.spoilt)  # noqa: B010  as a gradient scaler does
        if self.slots is None:
            self.slots = torch.empty(SLOTS, 2, pin_memory=True)
        if len(self.pending) == SLOTS:
            self._look(wait=True)
        slot = self.slots[step.number % SLOTS]
        slot.copy_(numbers, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self.pending.append(step._replace(numbers=slot, arrived=arrived))
        self._look(wait=False)

    def _look(self, wait: bool) -> None:
        """At the steps whose numbers have arrived, or at all of them. Raises NotFinite."""
        while self.pending:
            step = self.pending[0]
            assert step.arrived is not None
            if wait:
                step.arrived.synchronize()
            elif not step.arrived.query():
                return
            self.pending.popleft()
            if not step.numbers.isfinite().all():
                self._end(step)

    def _end(self, step: Step) -> None:
        loss, norm = step.numbers.tolist()
        facts = {
            "epoch": step.epoch,
            "batch": step.batch,
            "step": step.number,
            "loss": str(loss),  # JSON has no word for these
            "gradient_norm": str(norm),
            "lr": step.lr,
            "reviews": torch.cat(step.reviews).tolist(),
        }
        durable.write(self.file, (json.dumps(facts) + "\n").encode())
        raise NotFinite(
            f"step {facts['step']} (epoch {facts['epoch']}, batch {facts['batch']}): loss "
            f"{facts['loss']}, gradient norm {facts['gradient_norm']} at learning rate "
            f"{facts['lr']:g}; its reviews are in {self.file}; a smaller optim.lr or "
            "trainer.gradient_clip_val=1 may help"
        )

    def on_validation_start(self, trainer: lightning.Trainer, model: Any) -> None:
        self._look(wait=True)  # before the epoch is recorded

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Any) -> None:
        self._look(wait=True)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, model: Any, checkpoint: dict[str, Any]
    ) -> None:
        self._look(wait=True)

    def on_validation_end(self, trainer: lightning.Trainer, model: Any) -> None:
        loss = model.measures("val")["loss"]
        if not math.isfinite(loss):
            raise NotFinite(f"epoch {trainer.current_epoch + 1}: the loss on val is {loss}")

    def on_test_end(self, trainer: lightning.Trainer, model: Any) -> None:
        loss = model.measures("test")["loss"]
        if not math.isfinite(loss):
            raise NotFinite(f"the loss on test is {loss}")
