"""Checkpoints: all that a run needs to go on to the same bits, as plain containers and tensors."""

from __future__ import annotations

import io
import logging
import pickle
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from . import durable, interruption
from .record import Record, device_name
from .run import Run


KEYS = (
    "state_dict",
    "optimizer_states",
    "position",
    "random",
    "pass",
    "record",
    "device",
    "threads",
)

OTHER_BITS = "what follows may differ in its last bits"

log = logging.getLogger(__name__)


class Damaged(Exception):
    """A checkpoint that cannot be read, and why, in one line."""


# Files


class Sealed(CheckpointIO):
    """How Lightning is to write and read a checkpoint."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink()


def save(checkpoint: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    durable.write(file, durable.seal(buffer.getvalue()))


def read(file: Path) -> dict[str, Any]:
    """A checkpoint to go on from. Raises Damaged."""
    try:
        content = file.read_bytes()
        if not durable.is_intact(content):
            raise Damaged(f"{file}: damaged, or of a version that could not go on from it")
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, EOFError) as error:
        raise Damaged(f"{file}: {error}") from None
    missing = [key for key in KEYS if key not in checkpoint]
    if missing:
        raise Damaged(f"{file}: of another version, without {', '.join(missing)}")
    return checkpoint


def weights(file: Path) -> dict[str, torch.Tensor]:
    """The state_dict of a checkpoint, to begin another run with. Raises Damaged."""
    try:
        content = file.read_bytes()
        if not durable.is_intact(content):
            raise Damaged(f"{file}: damaged")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["state_dict"]
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise Damaged(f"{file}: {error}") from None


def newest(run: Run, needs_best: bool) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint of `run` that is farthest, of those that are intact; None where none is there.

    Says which ones are not. Raises Damaged where all that are there are damaged, or the best one is
    and the run needs it.
    """
    found, damaged = [], []
    for file in (run.last, run.best):
        if file.exists():
            try:
                found.append((file, read(file)))
            except Damaged as error:
                damaged.append(str(error))
    if damaged and not found:
        raise Damaged(
            f"{'; '.join(damaged)}; there is no other: remove {run.last.parent} to start again"
        )
    for line in damaged:
        log.warning("%s", line)
    farthest = max(found, key=lambda pair: Position(**pair[1]["position"])[:2], default=None)
    if damaged and farthest is not None:
        if farthest[0] == run.last and needs_best:
            raise Damaged(
                f"{run.best}: the run would end with it; without {run.last.parent} it starts again"
            )
        log.warning("going on from %s", farthest[0])
    return farthest


# What is in them


class Position(NamedTuple):
    """How far a run is: the epoch that comes next, and what is done of it."""

    epoch: int  # from 0
    batch: int  # batches of this epoch that are done
    step: int  # of the optimizer, in all
    stopped: bool  # early stopping has ended the training


def random_states(device: torch.device) -> dict[str, Any]:
    """Of Python, NumPy, and PyTorch on the CPU and this device, as plain containers."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


class Checkpoints(Checkpoint):
    """Writes last.ckpt at the end of each epoch and within it, best.ckpt after the best on val.

    `start` is the checkpoint that Lightning has loaded, to go on from. Lightning's own account of
    its loops is left out: it counts the last batch, the validation and the epoch at different
    times, so where it goes on depends on the hook that saved.
    """

    def __init__(
        self, run: Run, record: Record, every: Mapping[str, Any], start: Mapping[str, Any] | None
    ) -> None:
        self.run = run
        self.record = record
        self.seconds = None if every["every_minutes"] is None else 60 * every["every_minutes"]
        self.steps = every["every_steps"]
        self.start = start
        self.position = Position(0, 0, 0, False)
        self.saved = time.monotonic()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, model: Any, checkpoint: dict[str, Any]
    ) -> None:
        del checkpoint["loops"]
        checkpoint["position"] = self.position._asdict()
        checkpoint["random"] = random_states(trainer.strategy.root_device)
        checkpoint["pass"] = model.rows("train") if self.position.batch else []
        checkpoint["record"] = self.record.state(self.position.batch > 0)
        checkpoint["device"] = device_name(trainer.strategy.root_device)
        checkpoint["threads"] = torch.get_num_threads()

    def on_train_start(self, trainer: lightning.Trainer, model: Any) -> None:
        interruption.defer(True)
        self.saved = time.monotonic()
        if self.start is None:
            return
        self.position = Position(**self.start["position"])
        now = device_name(trainer.strategy.root_device)
        if now != self.start["device"]:
            log.warning("begun on %s, now %s: %s", self.start["device"], now, OTHER_BITS)
        progress = trainer.fit_loop.epoch_progress
        for count in (progress.total, progress.current):
            for name in ("ready", "started", "processed", "completed"):
                setattr(count, name, self.position.epoch)
        optimizer = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer
        optimizer.step.total.ready = optimizer.step.total.completed = self.position.step
        trainer.should_stop = self.position.stopped
        set_random_states(self.start["random"], trainer.strategy.root_device)
        if self.position.batch == 0:
            self.start = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, model: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.start is None:
            return
        # The rest of an epoch: its batches are there, and nothing that is random came in between.
        progress = trainer.fit_loop.epoch_loop.batch_progress
        for count in (progress.total, progress.current):
            for name in ("ready", "started", "processed", "completed"):
                setattr(count, name, getattr(count, name) + self.position.batch)
        model.go_on("train", self.start["pass"])
        set_random_states(self.start["random"], trainer.strategy.root_device)
        self.start = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        # At its end an epoch is validated first; within a step there are gradients.
        if done == trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return
        waited = self.seconds is not None and time.monotonic() - self.saved >= self.seconds
        if interruption.asked or waited or (self.steps and done % self.steps == 0):
            self.save(trainer, Position(trainer.current_epoch, done, trainer.global_step, False))

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Any) -> None:
        position = (trainer.current_epoch + 1, 0, trainer.global_step, trainer.should_stop)
        self.save(trainer, Position(*position), self.record.is_best)

    def save(self, trainer: lightning.Trainer, position: Position, best: bool = False) -> None:
        self.position = position
        if best:  # before the last one: from there on it would not be written again
            trainer.save_checkpoint(self.run.best)
        trainer.save_checkpoint(self.run.last)
        self.saved = time.monotonic()
        if interruption.asked:
            log.info("interrupted; resume=%s goes on from here", self.run.path)
        interruption.leave_if_asked()

    def on_train_end(self, trainer: lightning.Trainer, model: Any) -> None:
        interruption.defer(False)
        interruption.leave_if_asked()

    def on_exception(self, trainer: lightning.Trainer, model: Any, error: BaseException) -> None:
        interruption.defer(False)
