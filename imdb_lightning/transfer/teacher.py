"""Teachers: finished runs whose predictions become soft labels for the unlabelled reviews.

`teacher=DIRECTORY`, or a list of them. Self-training with distillation: the weighted sum of the
teachers' logits gives probabilities, which replace labels (Hinton, Vinyals and Dean 2015; for
unlabelled reviews Mukherjee and Awadallah 2020).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException
from scipy.special import expit

from ..config.identity import SPLIT_KEYS, canonical_config
from ..config.schema import KEYS
from ..config.text import one_line
from ..data import sources
from ..data.sources import UNLABELLED
from ..inference import LoadError, load
from ..metrics.calibration import ensemble_weights
from ..runs import predictions
from ..runs.run import Run
from .upstream import check_match, check_reviews, provenance


# A baseline has no configuration: it is fitted on the default split.
BASELINE_CONFIG = {key: KEYS[key].default for key in SPLIT_KEYS}


class Teachers:
    """Finished runs and baselines, in their directories."""

    def __init__(self, teacher: str | Sequence[str] | ListConfig) -> None:
        names = [teacher] if isinstance(teacher, str) else teacher
        self.paths = [Path(os.path.expanduser(name)) for name in names]

    def soft_labels(self, texts: Sequence[str]) -> np.ndarray:
        """P(positive) of each text: float32 (N,).

        The teachers' logits are combined with non-negative weights that are fitted on val. Raises
        DataError if a teacher is missing or corrupt.
        """
        val_KN, logits_KN = [], []
        for path in self.paths:
            run = Run(path)
            try:
                val = predictions.read(run.predictions, "val")["val"]
                label_N = val.label
                val_KN.append(val.logit.astype(float))
                if run.metrics.get("baseline"):
                    unlabelled = predictions.read(run.predictions, UNLABELLED)[UNLABELLED]
                    logits_KN.append(unlabelled.logit.astype(float))
                else:
                    logits_KN.append(load(path).logits(texts).astype(float))
            except (OSError, KeyError, ValueError, LoadError) as error:
                raise sources.DataError(f"teacher={path}: {one_line(error)}") from None
        w_K = ensemble_weights(np.stack(val_KN), label_N)
        return expit(w_K @ np.stack(logits_KN)).astype(np.float32)

    def provenance(self) -> list[dict[str, Any]]:
        return [provenance(run, run.predictions) for run in map(Run, self.paths)]

    def check(self, cfg: DictConfig) -> list[str]:
        """A line for each reason why a run with this configuration cannot learn from them."""
        return [line for path in self.paths for line in _check(cfg, path)]


def _check(cfg: DictConfig, path: Path) -> list[str]:
    run = Run(path)
    here = f"teacher={path}"
    try:
        metrics = run.metrics
        is_baseline = metrics.get("baseline", False)
        now = canonical_config(cfg)
        upstream = BASELINE_CONFIG if is_baseline else canonical_config(run.config)
    except FileNotFoundError:
        return [f"{here}: no run there; train one with python -m imdb_lightning"]
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        return [f"{here}: corrupt: {one_line(error)}"]
    if "pretrain" in metrics:
        return [f"{here}: a pretraining, which predicts nothing"]
    if metrics.get("status") != "done":
        status = metrics.get("status")
        return [f"{here}: {status}; finish it with python -m imdb_lightning resume={path}"]
    lines = check_match("teacher", path, upstream, now, SPLIT_KEYS)
    if metrics.get("train_on_val"):
        lines.append(f"{here}: was trained on val, where the weights of teachers are fitted")
    if now["data.name"] == "imdb" and not lines:
        wrong = check_reviews("teacher", path, metrics, cfg.data.path)
        if not wrong and is_baseline:
            unlabelled = sources.path_fingerprint(cfg.data.path, (UNLABELLED,))
            if metrics["data"].get(UNLABELLED) != unlabelled:
                wrong = (
                    f"{here}: has no predictions for these unlabelled reviews; move it away, then "
                    "run python -m imdb_lightning.baselines --unlabelled"
                )
        lines += [wrong] if wrong else []
    if lines:
        return lines
    try:
        predictions.read(run.predictions, "val")
        if not is_baseline:
            load(path)
    except (OSError, ValueError) as error:
        return [f"{here}: predictions.parquet is corrupt: {one_line(error)}"]
    except LoadError as error:
        return [f"teacher: {error}"]
    return []
