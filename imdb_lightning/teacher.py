"""A finished run that tells the unlabelled reviews to another: `teacher=DIRECTORY`.

Self-training with the teacher's probabilities as labels (Hinton, Vinyals and Dean 2015; Mukherjee
and Awadallah 2020 for reviews without labels).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from . import config
from .data import sources
from .run import Run


SAME = ("data.name", "data.seed", "data.val_size")  # else it has read reviews of val
GRAMMAR = ("data.train_size", "data.test_size", "data.distance", "data.max_length")


def mistakes(cfg: DictConfig) -> list[str]:
    """A line for each reason why this run cannot learn from `cfg.teacher`."""
    path = Path(cfg.teacher).expanduser()
    run = Run(path)
    here = f"teacher={path}"
    if not (path / ".hydra" / "config.yaml").is_file():
        return [f"{here}: no run there; python -m imdb_lightning makes one"]
    try:
        before, now = config.comparable(run.config), config.comparable(cfg)
        metrics = run.metrics
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        return [f"{here}: damaged: {config.one_line(error)}"]
    if "pretrain.name" in before:
        return [f"{here}: a pretraining, which tells nothing of a review"]
    if metrics.get("status") != "done":
        status = metrics.get("status")
        return [f"{here}: it is {status}; python -m imdb_lightning resume={path} goes on with it"]
    lines = [
        f"{key}={now.get(key)}: it is {before.get(key)} in {path}, from which the run is to learn"
        for key in (*SAME, *(GRAMMAR if now["data.name"] == "synthetic" else ()))
        if before.get(key) != now.get(key)
    ]
    if before.get("data.refit") and not now.get("data.refit"):
        lines.append(f"{here}: it has read val's reviews (data.refit); so must this run")
    if now["data.name"] == "imdb" and not lines:
        # Another copy may have its reviews in another order, and others of them in val.
        if metrics["data"].get("fingerprint") != sources.fingerprint(sources.find(cfg.data.path)):
            lines.append(f"{here}: it has read other reviews than those of this run")
    if not lines:
        from .trained import LoadError, load

        try:
            load(path)
        except LoadError as error:
            lines.append(f"teacher: {error}")
    return lines


def checkpoint(run: Run) -> Path:
    """The weights that it tested."""
    return run.best if run.metrics.get("test_checkpoint") == "best" else run.last


def tell(path: Path, texts: Sequence[str]) -> np.ndarray:
    """Probability that a review is positive: float32 (N,), calibrated on val."""
    from .trained import load

    model = load(path)
    logit_N = model.logits(texts) / model.temperature
    return (1 / (1 + np.exp(-logit_N))).astype(np.float32)


def facts(path: Path) -> dict[str, Any]:
    """For metrics.json: which run it was, and what it took."""
    run = Run(path)
    metrics = run.metrics
    return {
        "sha256": hashlib.sha256(checkpoint(run).read_bytes()).hexdigest(),
        "settings": config.digest(run.config, seed=False, before=False),
        **{name: metrics["data"].get(name) for name in config.BEFORE},
        **{name: metrics.get(name) for name in ("model", "seed", "device")},
        **{name: metrics.get(name) for name in ("seconds", "core_seconds")},
    }
