"""Checkpoint files: plain containers and tensors, from which a run resumes bit for bit.

This is the one reader of checkpoints, for training, prediction and export.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from ..config.text import shorten
from . import reader, storage, unpickler
from .run import Run


KEYS = (
    *("state_dict", "optimizer_states", "progress", "random_state", "epoch_outputs"),
    *("run_log", "device", "threads"),
)
FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
MAX_SIZE = 2**34  # bytes
NOT_BITWISE = "results may differ in the last bits"

log = logging.getLogger(__name__)


class CorruptCheckpointError(Exception):
    """A checkpoint that cannot be read, and why, in one line."""


class TrainingProgress(NamedTuple):
    """How far the training has come: the current epoch, and how much of it is done."""

    epoch: int  # from 0
    batch: int  # batches of this epoch that are done
    step: int  # of the optimizer, in all
    stopped: bool  # by early stopping


class ChecksummedCheckpointIO(CheckpointIO):
    """Lightning's checkpoint plugin: atomic files with a checksum."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink()


def save(checkpoint: Mapping[str, Any], file: Path) -> None:
    """Write atomically, with a checksum. Raises OSError."""
    file.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    storage.atomic_write(file, storage.add_checksum(buffer.getvalue()))


def read(file: Path) -> dict[str, Any]:
    """A checkpoint to resume from. Raises CorruptCheckpointError."""
    checkpoint = _load(file)
    missing = [key for key in KEYS if key not in checkpoint]
    if missing:
        raise CorruptCheckpointError(f"{file}: of another version: it lacks {', '.join(missing)}")
    return checkpoint


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint. Raises CorruptCheckpointError."""
    state_dict = _load(file).get("state_dict")
    if not isinstance(state_dict, dict):
        raise CorruptCheckpointError(f"{file}: not a run's checkpoint: it has no state_dict")
    if not all(isinstance(tensor, Tensor) for tensor in state_dict.values()):
        raise CorruptCheckpointError(f"{file}: its state_dict contains more than tensors")
    try:
        check_weights(state_dict)
    except ValueError as error:
        raise CorruptCheckpointError(f"{file}: {error}") from None
    return state_dict


def check_weights(state_dict: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless the weights are finite numbers of one type."""
    dtypes = {tensor.dtype for tensor in state_dict.values()}
    if len(dtypes) != 1 or not dtypes < FLOATS:
        raise ValueError("its weights are not of one floating-point type")
    if not all(tensor.isfinite().all() for tensor in state_dict.values()):
        raise ValueError("its weights contain NaN or infinity")


def _load(file: Path) -> dict[str, Any]:
    """Without running anything in it."""
    try:
        archive = reader.read_bytes(file, MAX_SIZE)
        if storage.has_checksum(archive) and not storage.verify_checksum(archive):
            raise CorruptCheckpointError(f"{file}: corrupt: its checksum does not match")
        checkpoint = unpickler.loads(archive)
    except OSError as error:
        raise CorruptCheckpointError(f"{file}: {error.strerror}") from None
    except unpickler.ERRORS as error:
        reason = shorten(error) or type(error).__name__
        raise CorruptCheckpointError(
            f"{file}: corrupt, or it contains more than tensors, which is never loaded ({reason})"
        ) from None
    if not isinstance(checkpoint, dict):
        raise CorruptCheckpointError(f"{file}: not a run's checkpoint")
    return checkpoint


def latest(run: Run, needs_best: bool) -> tuple[Path, dict[str, Any]] | None:
    """The most advanced intact checkpoint of `run`, or None. Warns about corrupt ones.

    Raises CorruptCheckpointError if all of them are corrupt, or the best one is and the run needs
    it.
    """
    intact, corrupt = [], []
    for file in (run.last, run.best):
        if file.exists():
            try:
                intact.append((file, read(file)))
            except CorruptCheckpointError as error:
                corrupt.append(str(error))
    if corrupt and not intact:
        raise CorruptCheckpointError(
            f"{'; '.join(corrupt)}; there is no other; remove {run.last.parent} to start over"
        )
    for line in corrupt:
        log.warning("%s", line)

    def progress(pair: tuple[Path, dict[str, Any]]) -> tuple[int, int]:
        return TrainingProgress(**pair[1]["progress"])[:2]

    furthest = max(intact, key=progress, default=None)
    if corrupt and furthest is not None:
        if furthest[0] == run.last and needs_best:
            raise CorruptCheckpointError(
                f"{run.best}: test_checkpoint=best needs it; remove {run.last.parent} to start over"
            )
        log.warning("resuming from %s", furthest[0])
    return furthest
