"""A run directory: the files of one training run, written by it and read by later commands.

.hydra/config.yaml overrides.yaml    the composed configuration (written by Hydra)
checkpoints/best.ckpt last.ckpt      plain containers: torch.load(..., weights_only=True);
                                     vectors.ckpt of a pretraining
tokenizer.json                       of the `tokenizers` library
metrics.json                         every number of the run, and its status
predictions.parquet                  one row for each val and test review
non_finite.json                      only after a NaN or an infinity
curves.png  train.log  events.out.tfevents.*
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..config.rules import Rule, integer, number, or_null
from ..config.text import one_line
from . import reader, storage


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RunExistsError(Exception):
    """The directory already contains a run."""


class RunLockedError(Exception):
    """Another process is working in the directory."""


class Run:
    """One run directory. No file in it is ever partially written.

    The process that trains holds a lock on it, from `create` or `open` to the end of the context.
    """

    writes = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "checkpoints" / "best.ckpt"
        self.last = path / "checkpoints" / "last.ckpt"
        self.vectors = path / "checkpoints" / "vectors.ckpt"  # of a pretraining
        self.tokenizer = path / "tokenizer.json"
        self.predictions = path / "predictions.parquet"
        self.curves = path / "curves.png"
        self.non_finite = path / "non_finite.json"
        self._metrics = path / "metrics.json"
        self._lock: int | None = None

    @classmethod
    def create(cls, path: Path, metrics: Mapping[str, Any]) -> Run:
        """A new run in `path`, locked. Raises RunExistsError if there is one already."""
        run = cls(path)
        path.mkdir(parents=True, exist_ok=True)
        try:
            run._lock = lock_directory(path)  # of two that start at once, one succeeds
            if run._metrics.exists():
                raise FileExistsError
            run._remove_stale_files()
            run.write_metrics(metrics)
        except (FileExistsError, RunLockedError):
            run.release()
            raise RunExistsError(f"{path}: already contains a run; name a new directory") from None
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """The run in `path`, locked, to resume it. Raises RunLockedError."""
        run = cls(path)
        run._lock = lock_directory(path)
        run._remove_stale_files()
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove_stale_files(self) -> None:
        for folder in (self.path, self.path / ".hydra", self.last.parent):
            storage.remove_stale_temp_files(folder)

    # Configuration

    @property
    def config(self) -> DictConfig:
        """The composed configuration. Raises OSError, or ValueError if it is corrupt."""
        file = self.path / ".hydra" / "config.yaml"
        try:
            config = OmegaConf.create(reader.read_yaml(file))
            if not isinstance(config, DictConfig):
                raise ValueError("contains no configuration")
            reader.check_interpolations(OmegaConf.to_container(config, resolve=False))
        except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise ValueError(one_line(error)) from None
        return config

    def write_config(self, config: DictConfig) -> None:
        """`resume` is omitted: it says how a process was started, not what the run is."""
        own = OmegaConf.merge(config, {"resume": None})
        file = self.path / ".hydra" / "config.yaml"
        storage.atomic_write(file, OmegaConf.to_yaml(own).encode())
        overrides = file.with_name("overrides.yaml")  # Hydra's own write is not durable
        if overrides.exists():
            storage.atomic_write(overrides, overrides.read_bytes())

    # Metrics

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json: accuracies are fractions 0..1, losses nats per review.

        Raises OSError, or ValueError if it is corrupt.
        """
        metrics = reader.read_json(self._metrics)
        check_metrics(metrics)
        return metrics

    @property
    def status(self) -> str | None:
        """ "running", "done", "interrupted", "pruned" or "failed"; None if it cannot be read."""
        try:
            return self.metrics.get("status")
        except (OSError, ValueError):
            return None

    @property
    def was_killed(self) -> bool:
        """True if it was killed from outside and can be resumed."""
        return self.status == "failed" and bool(self.metrics.get("killed"))

    @property
    def diverged(self) -> bool:
        """True if a number became NaN or infinite; resuming would repeat that."""
        return self.status == "failed" and "NonFinite" in str(self.metrics.get("error"))

    @property
    def val_accuracy(self) -> float:
        """Fraction 0..1, of a finished run; NaN for a pretraining, which has none."""
        return self.metrics.get("val/acc", math.nan)

    @property
    def latest_accuracy(self) -> float | None:
        """Fraction 0..1 on val after the latest epoch; None if there is none yet."""
        try:
            return self.metrics["epochs"][-1]["val/acc"]
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            return None

    @property
    def completed_epochs(self) -> int:
        """0 if metrics.json cannot be read."""
        try:
            return len(self.metrics.get("epochs", []))
        except (OSError, ValueError, TypeError):
            return 0

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        storage.atomic_write(self._metrics, (json.dumps(metrics, indent=2) + "\n").encode())

    def mark_failed(self, reason: str, killed: bool = False) -> None:
        """Record why the run is not done, on behalf of a process that could not.

        `killed`: from outside, so that it can be resumed.
        """
        try:
            metrics = self.metrics
        except (OSError, ValueError):
            metrics = {}
        if metrics.get("status") not in ("failed", "done", "pruned"):  # it recorded its own end
            self.write_metrics({**metrics, "status": "failed", "error": reason, "killed": killed})


class Follower(Run):
    """The run in a process that is not its first one: it reads, and writes nothing."""

    writes = False

    def write_config(self, config: DictConfig) -> None:
        pass

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        pass


# The metrics of a stranger's run


TEXT = Rule(
    lambda v: isinstance(v, str) and len(v) <= 10_000, "a string of at most 10,000 characters"
)
FRACTION = number(0, 1 + 1e-9)
FINITE = number(-1e30, 1e30)
OBJECT = Rule(lambda v: isinstance(v, dict), "an object")
METRICS: dict[str, Rule] = {
    **dict.fromkeys(("status", "dataset", "model", "device", "processor"), TEXT),
    **dict.fromkeys(("test_checkpoint", "pretrain", "error", "git"), or_null(TEXT)),
    **dict.fromkeys(("val/acc", "val/acc_best", "test/acc", "train/acc"), FRACTION),
    **dict.fromkeys(("val/loss", "test/loss", "train/loss"), FINITE),
    **dict.fromkeys(("seconds", "cpu_seconds", "tokens_per_second"), number(0, 1e15)),
    **dict.fromkeys(("parameters", "peak_memory", "best_epoch", "epoch"), integer(0, 10**15)),
    "seed": integer(0, 2**32 - 1),
    "temperature": number(1e-3, 1e7),
    **dict.fromkeys(("data", "versions"), OBJECT),
}


def check_metrics(metrics: Any) -> None:
    """Raises ValueError for the first value of metrics.json that no run writes."""
    if not isinstance(metrics, dict):
        raise ValueError("contains no object")
    epochs = metrics.get("epochs", [])
    if not isinstance(epochs, list) or not all(isinstance(epoch, dict) for epoch in epochs):
        raise ValueError("epochs: must be a list of objects")
    for values in (metrics, *epochs):
        for name in values.keys() & METRICS.keys():
            if not METRICS[name].accepts(values[name]):
                raise ValueError(f"{name}: must be {METRICS[name].description}")


# Locks


def lock_directory(folder: Path) -> int | None:
    """Lock `folder` until this process ends or the descriptor that is returned is closed.

    The lock is on the directory itself and leaves nothing behind, however the process ends. NFS
    locks only files that are open for writing: there it is on the file .lock. Returns None on a
    system or file system without such locks. Raises RunLockedError.
    """
    if fcntl is None:
        return None
    places = ((folder, os.O_RDONLY), (folder / ".lock", os.O_RDWR | os.O_CREAT))
    for place, mode in places:
        try:
            descriptor = os.open(place, mode, 0o600)
        except OSError:
            if place == folder:
                raise
            return None  # it cannot be written to
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise RunLockedError(f"{folder}: another process is working in it") from None
        except OSError:
            os.close(descriptor)
    return None


def is_locked(folder: Path) -> bool:
    """True if another process has locked `folder`."""
    try:
        descriptor = lock_directory(folder)
    except RunLockedError:
        return True
    if descriptor is not None:
        os.close(descriptor)
    return False
