"""Data-parallel training: each process has a part of every batch, and the gradients are added."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from ..runtime import distributed


class DataParallel(DDPStrategy):
    """Lightning's DDP without its wrapper around the model.

    The gradients are added once, before the step: after accumulation, and after the second pass
    of adversarial training.
    """

    def configure_ddp(self) -> None:
        assert self.model is not None
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                torch.distributed.broadcast(tensor, 0)


class GradientSum(Callback):
    """Adds the gradients and the losses of all processes, in one exchange. First in the list."""

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, model: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        parts = [*gradients, model.loss_of_step.detach()]
        flat = torch.cat([part.reshape(-1) for part in parts])
        distributed.exchange(lambda: torch.distributed.all_reduce(flat))
        for part, new in zip(gradients, flat.split([p.numel() for p in parts]), strict=False):
            part.copy_(new.view_as(part))
        model.loss_of_step = flat[-1]
