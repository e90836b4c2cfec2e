"""Pruning: end a trial of a search whose val accuracy is below that of the trials before it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.callbacks import Callback

from .run_logger import RunLogger


if TYPE_CHECKING:  # optuna is an extra
    from ..search.study import Pruner


class Pruning(Callback):
    """`pruner` decides after each epoch but the last."""

    def __init__(self, pruner: Pruner, run_logger: RunLogger) -> None:
        self.pruner = pruner
        self.run_logger = run_logger
        self.has_pruned = False

    def on_train_start(self, trainer: lightning.Trainer, model: Any) -> None:
        """Of a run that is resumed: it may have been killed before it could end itself."""
        self._decide(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Any) -> None:
        self._decide(trainer)

    def _decide(self, trainer: lightning.Trainer) -> None:
        epochs = self.run_logger.metrics["epochs"]
        if not epochs or epochs[-1]["epoch"] == trainer.max_epochs:
            return
        if self.pruner.prunes({epoch["epoch"]: epoch["val/acc"] for epoch in epochs}):
            self.has_pruned = trainer.should_stop = True


def pruning(path: Path, run_logger: RunLogger) -> list[Pruning]:
    """The callback for a run that is a trial of a search; empty for any other run."""
    if not (path.parent / "study.log").is_file() or find_spec("optuna") is None:
        return []
    from ..search.study import Pruner

    pruner = Pruner.of(path)
    return [] if pruner is None else [Pruning(pruner, run_logger)]
