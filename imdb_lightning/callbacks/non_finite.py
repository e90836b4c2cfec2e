"""The guard against NaN and infinity: a run stops before they reach the weights."""

from __future__ import annotations

import json
import math
from collections import deque
from typing import Any, NamedTuple, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from ..data.batches import COPY
from ..runs import storage
from ..runs.run import Run
from ..runtime import distributed


class NonFiniteError(Exception):
    """A loss or gradient is NaN or infinite."""


SLOTS = 64  # steps that a GPU may be ahead of the last check of its numbers


class Step(NamedTuple):
    """A training step whose loss and gradient norm may not have arrived yet."""

    epoch: int  # from 1
    batch: int
    number: int
    lr: float
    reviews: list[Tensor]
    numbers: Tensor  # (2,): mean loss, gradient norm
    arrived: torch.cuda.Event | None


class NonFiniteGuard(Callback):
    """Stops before the step that would corrupt the weights, and writes non_finite.json.

    On a GPU the step itself is not waited for: the fused optimizer skips its updates from the first
    bad step on, and the run ends when the numbers of that step arrive, at the latest before
    anything is saved.
    """

    def __init__(self, run: Run) -> None:
        self.file = run.non_finite
        self.writes = run.writes
        if self.writes:
            self.file.unlink(missing_ok=True)  # of an earlier process
        self.losses: list[Tensor] = []  # of the batches of one step
        self.reviews: list[Tensor] = []
        self.pending: deque[Step] = deque()
        self.found_inf: Tensor | None = None  # 1, on the GPU, from the first bad step on
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
        if distributed.world_size() > 1:
            losses = [cast(Tensor, model.loss_of_step)]  # of all processes, as the gradients are
        step = Step(
            trainer.current_epoch + 1,
            trainer.fit_loop.epoch_loop.batch_progress.current.ready,
            trainer.global_step + 1,
            optimizer.param_groups[0]["lr"],
            reviews,
            torch.empty(0),
            None,
        )
        alone = distributed.world_size() == 1  # several processes decide at the same step
        if alone and losses[0].is_cuda and optimizer.defaults.get("fused"):
            self._check_later(step, losses, gradients, optimizer)
            return
        # Summing takes a third of the time of a norm, and is non-finite if any element is.
        sums = [*losses, *(gradient.sum() for gradient in gradients)]
        if trainer.precision == "16-mixed":  # there the scaler skips steps that overflow
            sums = losses
        if math.isfinite(torch.stack(sums).sum().item()):
            return
        norm = nn.utils.get_total_norm(gradients)
        self._stop(step._replace(numbers=torch.stack([torch.stack(losses).mean(), norm])))

    def _check_later(
        self,
        step: Step,
        losses: list[Tensor],
        gradients: list[Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Let the GPU skip the update if the numbers are bad, and check them later."""
        numbers = torch.stack([torch.stack(losses).mean(), nn.utils.get_total_norm(gradients)])
        bad = numbers.isfinite().all().logical_not().float()
        self.found_inf = bad if self.found_inf is None else torch.maximum(self.found_inf, bad)
        setattr(optimizer, "found_inf", self.found_inf)  # noqa: B010  as a gradient scaler does
        if self.slots is None:
            self.slots = torch.empty(SLOTS, 2, pin_memory=True)
        if len(self.pending) == SLOTS:
            self._check(wait=True)
        slot = self.slots[step.number % SLOTS]
        slot.copy_(numbers, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self.pending.append(step._replace(numbers=slot, arrived=arrived))
        self._check(wait=False)

    def _check(self, wait: bool) -> None:
        """The steps whose numbers have arrived, or all of them. Raises NonFiniteError."""
        while self.pending:
            step = self.pending[0]
            assert step.arrived is not None
            if wait:
                step.arrived.synchronize()
            elif not step.arrived.query():
                return
            self.pending.popleft()
            if not step.numbers.isfinite().all():
                self._stop(step)

    def _stop(self, step: Step) -> None:
        loss, norm = step.numbers.tolist()
        reviews = torch.cat(step.reviews)
        every = torch.cat(distributed.gather(reviews[reviews != COPY].cpu()))
        details = {
            "epoch": step.epoch,
            "batch": step.batch,
            "step": step.number,
            "loss": str(loss),  # JSON cannot express NaN
            "gradient_norm": str(norm),
            "lr": step.lr,
            "reviews": every.tolist(),
        }
        if self.writes:
            storage.atomic_write(self.file, (json.dumps(details) + "\n").encode())
        raise NonFiniteError(
            f"step {details['step']} (epoch {details['epoch']}, batch {details['batch']}): loss "
            f"{details['loss']}, gradient norm {details['gradient_norm']} at learning rate "
            f"{details['lr']:g}; its reviews are listed in {self.file}; a smaller optim.lr or "
            "trainer.gradient_clip_val=1 may help"
        )

    def on_validation_start(self, trainer: lightning.Trainer, model: Any) -> None:
        self._check(wait=True)  # before the epoch is recorded

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Any) -> None:
        self._check(wait=True)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, model: Any, checkpoint: dict[str, Any]
    ) -> None:
        self._check(wait=True)

    def on_validation_end(self, trainer: lightning.Trainer, model: Any) -> None:
        loss = model.metrics("val")["loss"]
        if not math.isfinite(loss):
            raise NonFiniteError(f"epoch {trainer.current_epoch + 1}: the loss on val is {loss}")

    def on_test_end(self, trainer: lightning.Trainer, model: Any) -> None:
        loss = model.metrics("test")["loss"]
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss on test is {loss}")
