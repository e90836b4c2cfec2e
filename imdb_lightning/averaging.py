"""Weights averaged over the steps of training."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging


class Averaging(EMAWeightAveraging):
    """An exponential moving average, which is what is validated, saved and tested."""

    def setup(self, trainer: lightning.Trainer, model: Any, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the model has yet to go there
        super().setup(trainer, model, stage)

    def on_train_end(self, trainer: lightning.Trainer, model: Any) -> None:
        super().on_train_end(trainer, model)
        # Lightning would put it in the place of the best weights when those are validated.
        self._average_model = None
