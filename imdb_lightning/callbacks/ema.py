"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """Averages the weights over the steps; the average is validated, saved and tested."""

    def setup(self, trainer: lightning.Trainer, model: Any, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the model is moved there later
        super().setup(trainer, model, stage)

    def on_train_end(self, trainer: lightning.Trainer, model: Any) -> None:
        super().on_train_end(trainer, model)
        # Or else Lightning swaps the average in when the best weights are validated.
        self._average_model = None
