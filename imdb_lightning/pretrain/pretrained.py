"""What an earlier pretraining left, as the start of a classifier: `pretrained=DIRECTORY`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from .. import config
from ..data import sources
from ..run import Run


if TYPE_CHECKING:
    from ..model.classifier import Classifier

HOW = "python -m imdb_lightning.pretrain makes one"
GRAMMAR = ("data.train_size", "data.test_size", "data.distance", "data.max_length")
SAME = ("data.name", "data.vocab_size", "data.seed", "data.val_size", "model.embedding_size")


def mistakes(cfg: DictConfig) -> list[str]:
    """A line for each reason why this run cannot begin with `cfg.pretrained`."""
    path = Path(cfg.pretrained).expanduser()
    run = Run(path)
    here = f"pretrained={path}"
    if not (path / ".hydra" / "config.yaml").is_file():
        return [f"{here}: no run there; {HOW}"]
    try:
        before, now = config.comparable(run.config), config.comparable(cfg)
        status = run.metrics.get("status")
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        return [f"{here}: damaged: {config.one_line(error)}"]
    if "pretrain.name" not in before:
        return [f"{here}: a classifier's run, not a pretraining; {HOW}"]
    if status != "done":
        return [f"{here}: it is {status}; python -m imdb_lightning.pretrain resume={path} makes it"]
    missing = [file for file in (run.tokenizer, run.vectors) if not file.is_file()]
    if missing:
        return [f"{here}: damaged: there is no {missing[0].name}"]
    lines = [
        f"{key}={now.get(key)}: it is {before.get(key)} in {path}, with which the run is to begin"
        for key in (*SAME, *(GRAMMAR if now["data.name"] == "synthetic" else ()))
        if before.get(key) != now.get(key)
    ]
    if before.get("data.refit") and not now.get("data.refit"):
        lines.append(f"{here}: it has read val's reviews (data.refit); so must this run")
    if now["data.name"] == "imdb" and not lines:
        # Another copy may have its reviews in another order, and others of them in val.
        reviews = sources.fingerprint(sources.find(cfg.data.path))
        if run.metrics["data"].get("fingerprint") != reviews:
            lines.append(f"{here}: it has read other reviews than those of this run")
    return lines


def load(model: Classifier, path: Path) -> frozenset[str]:
    """Set the weights that were pretrained, and give their names. Raises checkpoint.Damaged."""
    import torch

    from ..checkpoint import weights

    before = weights(Run(path).vectors)
    own = model.state_dict()
    with torch.no_grad():
        for name in before:
            own[name].copy_(before[name])
    return frozenset(before)


def facts(path: Path) -> dict[str, Any]:
    """For metrics.json: which pretraining it was, and what it took."""
    run = Run(path)
    metrics = run.metrics
    return {
        "sha256": hashlib.sha256(run.vectors.read_bytes()).hexdigest(),
        "settings": config.digest(run.config, seed=False, before=False),
        "unsupervised": run.config.data.get("unsupervised", False),
        **{name: metrics.get(name) for name in ("pretrain", "seed", "device")},
        **{name: metrics.get(name) for name in ("seconds", "core_seconds")},
    }
