"""Pruning: end a trial of a search whose val accuracy is below that of the trials before it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.callbacks import Callback

from ..runtime import distributed
from .run_logger import RunLogger


if TYPE_CHECKING:  # optuna is an extra
    from ..search.study import Pruner


class Pruning(Callback):
    """`pruner`, of the first process, decides after each epoch but the last."""

    def __init__(self, pruner: Pruner | None, run_logger: RunLogger) -> None:
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
        accuracies = {epoch["epoch"]: epoch["val/acc"] for epoch in epochs}
        decision = self.pruner is not None and self.pruner.prunes(accuracies)
        if distributed.from_first(decision):
            self.has_pruned = trainer.should_stop = True


def pruning(path: Path, run_logger: RunLogger) -> list[Pruning]:
    """The callback for a run that is a trial of a search; empty for any other run."""
    pruner = None
    has_study = (path.parent / "study.log").is_file() and find_spec("optuna") is not None
    if has_study and distributed.rank() == 0:
        from ..search.study import Pruner

        pruner = Pruner.of(path)
    return [Pruning(pruner, run_logger)] if distributed.from_first(pruner is not None) else []
