"""The scalars of a run so far, for loggers whose files a resumed run writes again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import lightning
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class Scalars(NamedTuple):
    """What one call has logged."""

    step: int  # of the optimizer, from 0
    time: float  # wall clock
    values: dict[str, float]


class History(Logger):
    """A logger that keeps the scalars in memory; `state` is that of an earlier process."""

    name = version = None

    def __init__(self, state: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__()
        self.scalars = [Scalars(**entry) for entry in state]

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.scalars.append(Scalars(step, time.time(), dict(metrics)))

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They are in the run's configuration."""

    def state(self, trainer: lightning.Trainer, within_epoch: bool) -> list[dict[str, Any]]:
        """Plain containers. The scalars of the step or the epoch that is just over are part of it:
        Lightning logs them after a checkpoint has been saved."""
        found = [entry._asdict() for entry in self.scalars]
        connector = trainer._logger_connector
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        names = {n for entry in self.scalars if entry.step == step for n in entry.values}
        if trainer.validating:  # after a validation within the epoch: that is logged already
            return found
        if within_epoch and (not connector.should_update_logs or "train/loss_step" in names):
            return found
        if not within_epoch:
            step -= 1
        values = {name: float(value) for name, value in connector.metrics["log"].items()}
        now = Scalars(step, time.time(), {**values, "epoch": trainer.current_epoch})
        return [*found, now._asdict()]
