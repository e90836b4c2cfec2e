"""The published report: its seven runs, and which of ours reproduce them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..config.identity import REPLICA_KEYS, canonical_config, differences, without
from ..config.overrides import check_command_line
from .runs import Configuration


@cache
def runs() -> dict[str, dict[str, Any]]:
    """By name: hyperparameters, and "epochs" with train and held-out ("test") loss and accuracy."""
    text = Path(__file__).with_name("published.json").read_text("utf-8")
    return json.loads(text)["runs"]


def find(name: str, among: Iterable[Configuration], *overrides: str) -> Configuration | None:
    """The configuration that reproduces experiment=report/`name`; of several that with most seeds.

    `overrides` are changes to that experiment.
    """
    wanted = _experiment(name, overrides)
    repeats = [c for c in among if without(c.config, *REPLICA_KEYS) == wanted]
    return max(repeats, key=lambda c: len(c.results), default=None)


def name_after_nearest(configurations: Sequence[Configuration]) -> None:
    """Label configurations that differ from a report's in one or two keys by that difference."""
    named = {f"report/{name}": find(name, configurations) for name in runs()}
    theirs = {label: c.config for label, c in named.items() if c is not None}
    for c in configurations:
        changes = {
            label: differences(other, c.config, ignore=REPLICA_KEYS)
            for label, other in theirs.items()
        }
        nearest = min(changes, key=lambda label: len(changes[label]), default=None)
        if nearest is not None and 1 <= len(changes[nearest]) <= 2:
            changed = [f"{key.split('.', 1)[-1]}={c.config.get(key)}" for key in changes[nearest]]
            c.label = " ".join([nearest, *changed])


@cache
def _experiment(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    (cfg,) = check_command_line([f"experiment=report/{name}", *overrides]).jobs
    return without(canonical_config(cfg), *REPLICA_KEYS)
