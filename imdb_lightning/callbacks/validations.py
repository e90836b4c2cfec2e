"""When an epoch is validated: at its end, however it ends, and within it as configured."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from ..data.datamodule import ReviewDataModule
from ..runtime.random_state import get_random_state, set_random_state


class Validations(Callback):
    """Every epoch ends with a validation, also one that `max_steps` cuts short; Lightning alone
    validates where `val_check_interval` falls. A validation within an epoch draws none of the
    training's random numbers. First in the list of callbacks: the others see its decisions.
    """

    def __init__(self) -> None:
        self.interval: int | float | None = None  # as configured, while it is another one
        self.random_state: Any = None

    def on_fit_start(self, trainer: lightning.Trainer, model: Any) -> None:
        check_limits(trainer, trainer.datamodule)  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: lightning.Trainer, model: Any) -> None:
        if self.interval is not None:
            trainer.val_check_batch, self.interval = self.interval, None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        assert trainer.val_check_batch is not None
        if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
        elif done < trainer.num_training_batches:
            if done % trainer.val_check_batch == 0:
                self.random_state = get_random_state(trainer.strategy.root_device)
            return
        self.interval, trainer.val_check_batch = trainer.val_check_batch, done

    def on_validation_end(self, trainer: lightning.Trainer, model: Any) -> None:
        if self.random_state is not None:
            set_random_state(self.random_state, trainer.strategy.root_device)
            self.random_state = None


def check_limits(trainer: lightning.Trainer, data: ReviewDataModule) -> None:
    """Raises MisconfigurationException for a part of an epoch or of a split that has no batch."""
    used: dict[str, int] = {}
    for split in ("train", "val", "test"):
        batches = -(-len(data.splits[split]) // data.data["batch_size"])
        limit = getattr(trainer, f"limit_{split}_batches")
        used[split] = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
        if used[split] == 0:
            raise MisconfigurationException(
                f"{limit} of {batches} batches of {split} is none: set a larger "
                f"trainer.limit_{split}_batches or trainer.overfit_batches"
            )
    interval = trainer.val_check_interval
    if isinstance(interval, int) and interval > used["train"]:
        raise MisconfigurationException(
            f"trainer.val_check_interval={interval}: an epoch has {used['train']} batches"
        )
