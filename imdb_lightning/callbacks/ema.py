"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """The average over the steps of training, which is what is validated, saved and tested."""

    def setup(self, trainer: lightning.Trainer, model: Any, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the model is moved there later
        super().setup(trainer, model, stage)

    def on_train_end(self, trainer: lightning.Trainer, model: Any) -> None:
        super().on_train_end(trainer, model)
        # Lightning would replace the best weights by it when those are validated.
        self._average_model = None
