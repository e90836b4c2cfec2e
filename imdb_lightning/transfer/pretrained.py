"""Pretrained word vectors as the initial embedding of a classifier: `pretrained=DIRECTORY`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..config.identity import EMBEDDING_KEYS, SPLIT_KEYS, canonical_config
from ..config.text import one_line
from ..runs.run import Run
from .upstream import check_match, check_reviews, provenance


if TYPE_CHECKING:
    from torch import Tensor

COMMAND = "python -m imdb_lightning.pretrain"


class Pretrained:
    """A finished pretraining, in the run directory `path`."""

    def __init__(self, path: str) -> None:
        self.path = Path(os.path.expanduser(path))
        self.run = Run(self.path)

    def tokenizer_json(self) -> str:
        """Its vocabulary, the content of tokenizer.json. Raises OSError."""
        return self.run.tokenizer.read_text("utf-8")

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights, by their names in a classifier. Raises CorruptCheckpointError."""
        from ..runs.checkpoint import read_state_dict  # late: torch takes seconds to import

        return read_state_dict(self.run.vectors)

    def provenance(self) -> dict[str, Any]:
        return provenance(self.run, self.run.vectors)

    def check(self, cfg: DictConfig) -> list[str]:
        """A line for each reason why a run with this configuration cannot use it."""
        here = f"pretrained={self.path}"
        if not (self.path / ".hydra" / "config.yaml").is_file():
            return [f"{here}: no run there; create one with {COMMAND}"]
        try:
            upstream, now = canonical_config(self.run.config), canonical_config(cfg)
            metrics = self.run.metrics
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            return [f"{here}: corrupt: {one_line(error)}"]
        if "pretrain.name" not in upstream:
            return [f"{here}: a classifier's run, not a pretraining; create one with {COMMAND}"]
        if metrics.get("status") != "done":
            return [f"{here}: {metrics.get('status')}; finish it with {COMMAND} resume={self.path}"]
        for file in (self.run.tokenizer, self.run.vectors):
            if not file.is_file():
                return [f"{here}: corrupt: there is no {file.name}"]
        lines = check_match("pretrained", self.path, upstream, now, (*SPLIT_KEYS, *EMBEDDING_KEYS))
        if upstream.get("data.train_on_val") and not now.get("data.train_on_val"):
            lines.append(
                f"{here}: has seen the reviews of val, so data.train_on_val=true is needed"
            )
        if now["data.name"] == "imdb" and not lines:
            wrong = check_reviews("pretrained", self.path, metrics, cfg.data.path)
            lines += [wrong] if wrong else []
        return lines
