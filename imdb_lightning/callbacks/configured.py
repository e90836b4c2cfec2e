"""The callbacks of the group `callbacks`: Lightning's by their names, and a user's class."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import lightning.pytorch.callbacks
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from ..config.components import CALLBACKS, chosen
from .summary import Summary


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
    elif name == "model_summary":
        make = Summary
    else:
        make = getattr(lightning.pytorch.callbacks, CALLBACKS[name])
    if not (isinstance(make, type) and issubclass(make, Callback)):
        raise TypeError(f"{target} is no lightning.pytorch.callbacks.Callback")
    return make(**options)
