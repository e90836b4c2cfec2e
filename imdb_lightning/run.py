"""A run directory: what a training run leaves, and how later commands read it back.

.hydra/config.yaml overrides.yaml    the composed configuration (written by Hydra)
checkpoints/best.ckpt last.ckpt      plain containers: torch.load(..., weights_only=True)
tokenizer.json                       of the `tokenizers` library
metrics.json                         every number of the run; "status" says how it ended
predictions.parquet                  one row per val and test review
curves.png  train.log  events.out.tfevents.*
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet
from omegaconf import DictConfig, OmegaConf


if TYPE_CHECKING:
    from .model.classifier import Scores


class RunExists(Exception):
    """Two runs never share a directory."""


class Run:
    """One run directory. Nothing in it is ever half-written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "checkpoints" / "best.ckpt"
        self.last = path / "checkpoints" / "last.ckpt"
        self.tokenizer = path / "tokenizer.json"
        self.predictions = path / "predictions.parquet"
        self.curves = path / "curves.png"
        self._metrics = path / "metrics.json"

    @classmethod
    def claim(cls, path: Path, metrics: Mapping[str, Any]) -> Run:
        """Begin a run in `path` with these metrics. Raises RunExists where there is one already."""
        run = cls(path)
        path.mkdir(parents=True, exist_ok=True)
        try:
            with run._metrics.open("x") as file:  # of two that start at once, one succeeds
                file.write(_json(metrics))
        except FileExistsError:
            raise RunExists(f"{path}: there is a run in it; name a new directory") from None
        return run

    @property
    def config(self) -> DictConfig:
        """The composed configuration."""
        config = OmegaConf.load(self.path / ".hydra" / "config.yaml")
        assert isinstance(config, DictConfig)
        return config

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds: accuracies are fractions 0..1, losses nats per review."""
        return json.loads(self._metrics.read_text("utf-8"))

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        self.write(self._metrics, _json(metrics).encode())

    def write_predictions(self, splits: Mapping[str, Scores]) -> None:
        """One row per review: split, index in the official split, label, logit of pos - neg."""
        tables = [
            pyarrow.table(
                {
                    "split": [name] * len(scores.index_N),
                    "index": scores.index_N.numpy(),
                    "label": scores.labels_N.numpy(),
                    "logit": scores.margins_N.numpy(),
                }
            ).sort_by("index")
            for name, scores in splits.items()
        ]
        buffer = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.concat_tables(tables), buffer)
        self.write(self.predictions, buffer.getvalue().to_pybytes())

    @staticmethod
    def write(file: Path, content: bytes) -> None:
        """The whole content or nothing, also when the machine stops on the way."""
        file.parent.mkdir(exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def _json(metrics: Mapping[str, Any]) -> str:
    return json.dumps(metrics, indent=2) + "\n"
