"""Finished runs and baselines that tell another run the unlabelled reviews: `teacher=DIRECTORY`.

Self-training: the weighted sum of the teachers' logits gives probabilities, which take the place of
labels (Hinton, Vinyals and Dean 2015; of reviews without labels Mukherjee and Awadallah 2020).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import yaml
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException
from scipy.special import expit

from . import config, statistics
from .baselines import SPLIT_SEED, VAL_SIZE
from .data import sources
from .data.sources import UNSUPERVISED
from .pretrain.pretrained import GRAMMAR
from .run import Run
from .trained import LoadError, load


SAME = ("data.name", "data.seed", "data.val_size")  # else it has read reviews of val
OF_BASELINES = {"data.name": "imdb", "data.seed": SPLIT_SEED, "data.val_size": VAL_SIZE}


def paths(teacher: str | ListConfig) -> list[Path]:
    """One or several directories."""
    names = [teacher] if isinstance(teacher, str) else teacher
    return [Path(name).expanduser() for name in names]


def mistakes(cfg: DictConfig) -> list[str]:
    """A line for each reason why this run cannot learn from those of `cfg.teacher`."""
    return [line for path in paths(cfg.teacher) for line in _mistakes(cfg, path)]


def _mistakes(cfg: DictConfig, path: Path) -> list[str]:
    run = Run(path)
    here = f"teacher={path}"
    try:
        metrics = run.metrics
        baseline = metrics.get("baseline", False)
        now = config.comparable(cfg)
        before = OF_BASELINES if baseline else config.comparable(run.config)
    except FileNotFoundError:
        return [f"{here}: no run there; python -m imdb_lightning makes one"]
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        return [f"{here}: damaged: {config.one_line(error)}"]
    if "pretrain" in metrics:
        return [f"{here}: a pretraining, which tells nothing of a review"]
    if metrics.get("status") != "done":
        status = metrics.get("status")
        return [f"{here}: it is {status}; python -m imdb_lightning resume={path} goes on with it"]
    lines = [
        f"{key}={now.get(key)}: it is {before.get(key)} in {path}, from which the run is to learn"
        for key in (*SAME, *(GRAMMAR if now["data.name"] == "synthetic" else ()))
        if before.get(key) != now.get(key)
    ]
    if metrics.get("refit"):
        lines.append(f"{here}: it has read val's reviews, on which teachers are weighted")
    if now["data.name"] == "imdb" and not lines:
        # Another copy may have its reviews in another order, and others of them in val.
        if metrics["data"].get("fingerprint") != _fingerprint(cfg.data.path):
            lines.append(f"{here}: it has read other reviews than those of this run")
        elif baseline and metrics["data"].get(UNSUPERVISED) != _unlabelled(cfg.data.path):
            lines.append(
                f"{here}: it has not told these unlabelled reviews; move it away, then "
                "python -m imdb_lightning.baselines --unsupervised"
            )
    if lines:
        return lines
    try:
        known = _logits(run, "val")[1]
        if not len(known):
            raise ValueError("no rows of val")
        if not baseline:
            load(path)
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        return [f"{here}: predictions.parquet is damaged: {config.one_line(error)}"]
    except LoadError as error:
        return [f"teacher: {error}"]
    return []


@cache
def _fingerprint(path: str | None) -> str:
    return sources.fingerprint(sources.find(path))


@cache
def _unlabelled(path: str | None) -> str:
    return sources.fingerprint(sources.find(path, True), (UNSUPERVISED,))


def _logits(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits of its predictions, by row."""
    table = pyarrow.parquet.read_table(run.predictions, filters=[("split", "==", split)])
    table = table.sort_by("index")
    return table["label"].to_numpy() == 1, table["logit"].to_numpy().astype(float)


def tell(teachers: Sequence[Path], texts: Sequence[str]) -> np.ndarray:
    """Probability that a review is positive: float32 (N,), with weights that val tells.

    Raises DataError where one of them is gone or damaged.
    """
    val_KN, told_KN = [], []
    for path in teachers:
        run = Run(path)
        try:
            label_N, logit_N = _logits(run, "val")
            val_KN.append(logit_N)
            if run.metrics.get("baseline"):
                told_KN.append(_logits(run, UNSUPERVISED)[1])
            else:
                told_KN.append(load(path).logits(texts).astype(float))
        except (OSError, KeyError, ValueError, pyarrow.ArrowException, LoadError) as error:
            raise sources.DataError(f"teacher={path}: {config.one_line(error)}") from None
    w_K = statistics.weights(np.stack(val_KN), label_N)
    return expit(w_K @ np.stack(told_KN)).astype(np.float32)


def facts(teachers: Sequence[Path]) -> list[dict[str, Any]]:
    """For metrics.json: which runs they were, and what they took."""
    return [_facts(Run(path)) for path in teachers]


def _facts(run: Run) -> dict[str, Any]:
    metrics = run.metrics
    if metrics.get("baseline"):
        settings, unlabelled = metrics["model"], False
    else:
        settings = config.digest(run.config, seed=False, before=False)
        unlabelled = run.config.data.get("unsupervised", False)
    return {
        "sha256": hashlib.sha256(run.predictions.read_bytes()).hexdigest(),
        "settings": settings,
        "unsupervised": unlabelled,
        **{name: metrics["data"].get(name) for name in config.BEFORE},
        **{name: metrics.get(name) for name in ("model", "seed", "device")},
        **{name: metrics.get(name) for name in ("seconds", "core_seconds")},
    }
