"""The callbacks of the group `callbacks`: Lightning's by their names, and a user's class."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import lightning.pytorch.callbacks
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from omegaconf import DictConfig

from ..config.components import CALLBACKS, chosen
from .checkpoints import RunCheckpoint
from .summary import Summary


class EpochStarts(LearningRateMonitor):
    """Lightning's monitor, which logs the start of a resumed epoch a second time."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, *args: Any, **options: Any) -> None:
        own = (c for c in trainer.callbacks if isinstance(c, RunCheckpoint))  # type: ignore[attr-defined]
        if not any(callback.resumes_within_epoch for callback in own):
            super().on_train_epoch_start(trainer, *args, **options)


# Where this project's own replaces Lightning's.
OWN = {"model_summary": Summary, "learning_rate_monitor": EpochStarts}
# Arguments for which Lightning has no default, or another one.
OF_OURS = {"early_stopping": {"monitor": "val/acc", "mode": "max"}}


def configured_callbacks(cfg: DictConfig) -> list[Callback]:
    """Of a run. Raises whatever a callback raises for its arguments."""
    return [
        build_callback(name, given)
        for name, given in chosen(cfg, "callbacks").items()
        if name != "early_stopping" or given.get("patience") is not None
    ]


def build_callback(name: str, given: Mapping[str, Any]) -> Callback:
    """A callback by its name, or by its class `_target_`, with its arguments."""
    options = {**OF_OURS.get(name, {}), **given}
    target = options.pop("_target_", None)
    make: Any
    if target is not None:
        make = resolve_name(target)
    else:
        make = OWN.get(name) or getattr(lightning.pytorch.callbacks, CALLBACKS[name])
    if not (isinstance(make, type) and issubclass(make, Callback)):
        raise TypeError(f"{target} is no lightning.pytorch.callbacks.Callback")
    return make(**options)
