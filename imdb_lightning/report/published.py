"""The published report: its seven runs, and which of ours repeat them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .. import config
from .runs import Configuration


# Where and how a run was computed, as long as the mathematics is the same.
SAME_RUN = {"seed", "trainer.accelerator", "trainer.devices", "model.implementation"}


@cache
def runs() -> dict[str, dict[str, Any]]:
    """By name: hyperparameters, and "epochs" with train and held-out ("test") loss and accuracy."""
    text = Path(__file__).with_name("published.json").read_text("utf-8")
    return json.loads(text)["runs"]


def find(name: str, among: Iterable[Configuration], *overrides: str) -> Configuration | None:
    """The configuration that repeats experiment=report/`name`, of several the one with most seeds.

    `overrides` are changes to that experiment.
    """
    wanted = _same_run(_experiment(name, overrides))
    repeats = [c for c in among if _same_run(c.config) == wanted]
    return max(repeats, key=lambda c: len(c.results), default=None)


def name_after_nearest(configurations: Sequence[Configuration]) -> None:
    """Label those that differ from one of the report's in one or two keys by that difference."""
    named = {f"report/{name}": find(name, configurations) for name in runs()}
    theirs = {label: _same_run(c.config) for label, c in named.items() if c is not None}
    for c in configurations:
        own = _same_run(c.config)
        differences = {
            label: [key for key in sorted({*own, *other}) if own.get(key) != other.get(key)]
            for label, other in theirs.items()
        }
        nearest = min(differences, key=lambda label: len(differences[label]), default=None)
        if nearest is not None and 1 <= len(differences[nearest]) <= 2:
            changed = [f"{key.split('.', 1)[-1]}={own.get(key)}" for key in differences[nearest]]
            c.label = " ".join([nearest, *changed])


@cache
def _experiment(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    (cfg,) = config.check([f"experiment=report/{name}", *overrides]).jobs
    return config.comparable(cfg)


def _same_run(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in SAME_RUN}
