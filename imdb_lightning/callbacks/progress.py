"""The progress bar."""

from __future__ import annotations

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm import tqdm


class EpochProgressBar(TQDMProgressBar):
    """Lightning's, with loss and accuracy of the epoch so far and the time left for the run."""

    started: tuple[float, int] | None = None  # time, and batches before

    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(
            f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        )
        if self.started is None:
            self.started = time.monotonic(), self._done(trainer)

    def get_metrics(
        self, trainer: lightning.Trainer, model: Any
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Lightning calls it as often as it draws the bar."""
        shown: dict[str, int | str | float | dict[str, float]] = {}
        shown |= {name: f"{value:.3f}" for name, value in model.means_so_far("train").items()}
        left = self._seconds_left(trainer)
        if left is not None:
            shown["left"] = tqdm.format_interval(left)
        return shown

    def _done(self, trainer: lightning.Trainer) -> int:
        batches = int(trainer.num_training_batches)
        now = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return trainer.current_epoch * batches + min(now, batches)

    def _seconds_left(self, trainer: lightning.Trainer) -> float | None:
        """None before the first batch, and where the end is not a number of epochs."""
        if self.started is None or not trainer.max_epochs or trainer.max_steps != -1:
            return None
        since, before = self.started
        done = self._done(trainer)
        if done <= before:
            return None
        total = trainer.max_epochs * int(trainer.num_training_batches)
        return (time.monotonic() - since) / (done - before) * (total - done)
