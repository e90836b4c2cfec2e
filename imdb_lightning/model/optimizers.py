"""The optimizers by the names of the group `optim`: torch's, with torch's own arguments."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adagrad": torch.optim.Adagrad,
}
# Keys of the group that are no arguments of the optimizer.
OURS = ("name", "pretrained_lr_scale", "ema_decay", "adversarial_epsilon")


def make_optimizer(
    optim: Mapping[str, Any], groups: list[dict[str, Any]], on_cpu: bool, may_fuse: bool = True
) -> torch.optim.Optimizer:
    """The optimizer that the group `optim` of a configuration describes.

    It is fused, which is several times as fast, where torch can do that. Raises ValueError for
    arguments that torch refuses.
    """
    make = OPTIMIZERS[optim["name"]]
    options: dict[str, Any] = {k: v for k, v in optim.items() if k not in OURS}
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    if "fused" in signature(make).parameters:
        # torch.optim.Adagrad is fused on a CPU alone.
        options["fused"] = may_fuse and (on_cpu or make is not torch.optim.Adagrad)
    return make(groups, **options)
