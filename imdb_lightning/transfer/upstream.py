"""Upstream runs, on which another run builds: checks, and provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..config.identity import SYNTHETIC_KEYS, UPSTREAM_KEYS, config_hash, differences
from ..data import sources
from ..runs.run import Run


def check_match(
    key: str,
    path: Path,
    upstream: Mapping[str, Any],
    now: Mapping[str, Any],
    must_match: Collection[str],
) -> list[str]:
    """A line for each key in which the run in `path` and the new one must not differ.

    `upstream` and `now` are canonical configurations; `key` is what names the run, such as
    pretrained.
    """
    keys = (*must_match, *(SYNTHETIC_KEYS if now["data.name"] == "synthetic" else ()))
    return [
        f"{name}={b}: must be {a}, as in {key}={path}"
        for name, (a, b) in differences(upstream, now, keys).items()
    ]


def check_reviews(key: str, path: Path, metrics: Mapping[str, Any], data_path: str | None) -> str:
    """The error if the run has read other reviews; empty if there is none.

    Another copy may have its reviews in another order, and others of them in val.
    """
    if metrics["data"].get("fingerprint") == sources.path_fingerprint(data_path):
        return ""
    return f"{key}={path}: was trained on other reviews than these"


def provenance(run: Run, product: Path) -> dict[str, Any]:
    """For metrics.json: which run it was, the hash of what was taken from it, and its cost."""
    metrics = run.metrics
    if metrics.get("baseline"):
        settings, use_unlabelled = metrics["model"], False
    else:
        settings = config_hash(run.config, seed=False, upstream=False)
        use_unlabelled = run.config.data.use_unlabelled
    names = ("pretrain", "model", "seed", "device", "seconds", "cpu_seconds")
    return {
        "sha256": hashlib.sha256(product.read_bytes()).hexdigest(),
        "settings": settings,
        "use_unlabelled": use_unlabelled,
        **{name: metrics["data"].get(name) for name in UPSTREAM_KEYS},
        **{name: metrics.get(name) for name in names},
    }
