"""The learning rate schedules by the names of the group `schedule`, as Lightning takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    ReduceLROnPlateau,
    StepLR,
)


MONITOR = "val/acc"
NEVER = 2**62  # epochs


def make_schedule(
    schedule: Mapping[str, Any], optimizer: Optimizer, steps: Callable[[], int]
) -> dict[str, Any] | None:
    """Lightning's `lr_scheduler` for the group `schedule`; None if the rate is constant.

    `steps` are the optimizer's, of the whole run.
    """
    name = schedule["name"]
    options = {key: value for key, value in schedule.items() if key != "name"}
    if name == "constant":
        return None
    if name == "one_cycle":
        total = steps()
        rate = LambdaLR(optimizer, lambda step: one_cycle(step / total, **options))
        return {"scheduler": rate, "interval": "step"}
    if name == "cosine":
        return {"scheduler": CosineAnnealingLR(optimizer, steps(), **options), "interval": "step"}
    if name == "linear_warmup":
        return {"scheduler": LinearLR(optimizer, **options), "interval": "step"}
    if name == "step":
        return {"scheduler": StepLR(optimizer, **options), "interval": "epoch"}
    assert name == "reduce_on_plateau", name
    plateau = ReduceLROnPlateau(optimizer, mode="max", **options)
    # The classifier steps it (plateaus): Lightning would after the epoch's checkpoint is saved.
    return {"scheduler": plateau, "interval": "epoch", "frequency": NEVER, "monitor": MONITOR}


def plateaus(configs: Iterable[Any]) -> list[ReduceLROnPlateau]:
    """The schedules that wait for a better val accuracy; `configs` are Lightning's."""
    return [c.scheduler for c in configs if isinstance(c.scheduler, ReduceLROnPlateau)]


def one_cycle(progress: float, pct_start: float = 0.3, div_factor: float = 25) -> float:
    """Fraction 0..1 of the highest learning rate after this fraction of the run.

    Smith and Topin 2018, "Super-convergence", as torch's OneCycleLR computes it, without its cycle
    of momentum and down to 0. The rate rises in the first `pct_start` of the steps; it starts at
    1 / `div_factor`.
    """
    if progress < pct_start:
        return 1 / div_factor + (1 - 1 / div_factor) * half_cosine(progress / pct_start)
    return 1 - half_cosine((progress - pct_start) / (1 - pct_start))


def half_cosine(x: float) -> float:
    """From 0 at 0 to 1 at 1."""
    return (1 - math.cos(math.pi * x)) / 2
