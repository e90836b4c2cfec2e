"""A run directory: what a training run leaves, and how later commands read it back.

.hydra/config.yaml overrides.yaml    the composed configuration (written by Hydra)
checkpoints/best.ckpt last.ckpt      plain containers: torch.load(..., weights_only=True);
                                     of a pretraining vectors.ckpt
tokenizer.json                       of the `tokenizers` library
metrics.json                         every number of the run; "status" says how it ended
predictions.parquet                  one row per val and test review
curves.png  train.log  events.out.tfevents.*
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf

from . import durable


if TYPE_CHECKING:
    from .model.classifier import Scores

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RunExists(Exception):
    """Two runs never share a directory."""


class Run:
    """One run directory. Nothing in it is ever half-written.

    The process that trains holds it, from `claim` to `release` or its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "checkpoints" / "best.ckpt"
        self.last = path / "checkpoints" / "last.ckpt"
        self.vectors = path / "checkpoints" / "vectors.ckpt"  # of a pretraining
        self.tokenizer = path / "tokenizer.json"
        self.predictions = path / "predictions.parquet"
        self.curves = path / "curves.png"
        self._metrics = path / "metrics.json"
        self._lock: int | None = None

    @classmethod
    def claim(cls, path: Path, metrics: Mapping[str, Any]) -> Run:
        """Begin a run in `path` with these metrics. Raises RunExists where there is one already."""
        run = cls(path)
        path.mkdir(parents=True, exist_ok=True)
        try:
            run._lock = hold(path)  # of two that start at once, one succeeds
            if run._metrics.exists():
                raise FileExistsError
            run.sweep()
            run.write_metrics(metrics)
        except (FileExistsError, Busy):
            run.release()
            raise RunExists(f"{path}: there is a run in it; name a new directory") from None
        return run

    @classmethod
    def reopen(cls, path: Path) -> Run:
        """Go on with the run in `path`. Raises Busy where another process is at it."""
        run = cls(path)
        run._lock = hold(path)
        run.sweep()
        return run

    def sweep(self) -> None:
        """Remove what an earlier process was writing when it was killed."""
        for folder in (self.path, self.path / ".hydra", self.last.parent):
            durable.sweep(folder)

    def release(self) -> None:
        """The run is over, or never was."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def config(self) -> DictConfig:
        """The composed configuration. Raises OSError, or ValueError where it is damaged."""
        file = self.path / ".hydra" / "config.yaml"
        try:
            config = OmegaConf.load(file)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
        if not isinstance(config, DictConfig):
            raise ValueError(f"{file} holds no configuration")
        return config

    def write_config(self, config: DictConfig) -> None:
        """What the run goes by. `resume` is left out: it says how a process was started."""
        own = OmegaConf.merge(config, {"resume": None})
        file = self.path / ".hydra" / "config.yaml"
        durable.write(file, OmegaConf.to_yaml(own).encode())
        overrides = file.with_name("overrides.yaml")  # Hydra's, which a later resume goes by
        if overrides.exists():
            durable.write(overrides, overrides.read_bytes())

    @property
    def status(self) -> str | None:
        """ "running", "done", "interrupted" or "failed"; None where metrics.json cannot be read."""
        try:
            return self.metrics.get("status")
        except (OSError, ValueError):
            return None

    @property
    def was_ended(self) -> bool:
        """Whether it failed for having been ended from outside, so that it may go on."""
        return self.status == "failed" and bool(self.metrics.get("ended"))

    @property
    def was_not_finite(self) -> bool:
        """Whether it failed with numbers that it would come to again."""
        return self.status == "failed" and "NotFinite" in str(self.metrics.get("error"))

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds: accuracies are fractions 0..1, losses nats per review.

        Raises OSError, or ValueError where it is damaged.
        """
        metrics = json.loads(self._metrics.read_text("utf-8"))
        if not isinstance(metrics, dict):
            raise ValueError("it holds no object")
        return metrics

    @property
    def val_accuracy(self) -> float:
        """Of a finished run, fraction 0..1; nan of a pretraining, which has none."""
        return self.metrics.get("val/acc", math.nan)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        durable.write(self._metrics, _json(metrics).encode())

    def mark_failed(self, why: str, ended: bool = False) -> None:
        """Say why the run is not done, for one that could not do so itself.

        `ended` says that it was ended from outside.
        """
        try:
            metrics = self.metrics
        except (OSError, ValueError):
            metrics = {}
        if metrics.get("status") not in ("failed", "done"):  # else it said how it ended
            self.write_metrics({**metrics, "status": "failed", "error": why, "ended": ended})

    def write_predictions(self, splits: Mapping[str, Scores]) -> None:
        """One row per review: split, index in the official split, label, logit of pos - neg."""
        import pyarrow.parquet  # late: the command line reads metrics.json and no table

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
        durable.write(self.predictions, buffer.getvalue().to_pybytes())


def _json(metrics: Mapping[str, Any]) -> str:
    return json.dumps(metrics, indent=2) + "\n"


class Busy(Exception):
    """Another process is at work in a directory."""


def hold(folder: Path, release: bool = False) -> int | None:
    """Hold `folder` until this process ends or the descriptor that comes back is closed.

    The lock is on the directory itself and leaves nothing behind, however the process ends. None
    where the system has no such locks. Raises Busy.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Busy(f"another process is at work in {folder}") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    if release:
        os.close(descriptor)
        return None
    return descriptor
