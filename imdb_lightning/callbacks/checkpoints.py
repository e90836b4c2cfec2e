"""The callback that writes best.ckpt and last.ckpt, and resumes from them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint

from ..runs.checkpoint import NOT_BITWISE, TrainingProgress
from ..runs.run import Run
from ..runtime import distributed, signals
from ..runtime.provenance import device_name
from ..runtime.random_state import get_random_state, set_random_state
from .run_logger import RunLogger


log = logging.getLogger(__name__)


class RunCheckpoint(Checkpoint):
    """Saves last.ckpt at the end of each epoch and within it, best.ckpt after the best on val.

    `resume_from` is the checkpoint that Lightning loads. Lightning's own loop state is dropped: its
    counters advance in different hooks, so the resume point would depend on which hook saved.
    """

    def __init__(
        self,
        run: Run,
        run_logger: RunLogger,
        every_minutes: float | None,
        every_steps: int | None,
        resume_from: Mapping[str, Any] | None = None,
    ) -> None:
        self.run = run
        self.run_logger = run_logger
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self.every_steps = every_steps
        self.resume_from = resume_from
        self.progress = TrainingProgress(0, 0, 0, False)
        self.saved = time.monotonic()
        self.after_validation: TrainingProgress | None = None  # to save then

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, model: Any, checkpoint: dict[str, Any]
    ) -> None:
        del checkpoint["loops"]
        within_epoch = self.progress.batch > 0
        checkpoint["progress"] = self.progress._asdict()
        first, *others = distributed.gather(get_random_state(trainer.strategy.root_device))
        checkpoint["random_state"] = first
        if others:
            checkpoint["random_states"] = others  # of the processes but the first
        checkpoint["epoch_outputs"] = model.outputs_state("train") if within_epoch else []
        if within_epoch and model.has_outputs("val"):  # of a validation within the epoch
            checkpoint["val_outputs"] = model.outputs_state("val")
        checkpoint["run_log"] = self.run_logger.state(trainer, within_epoch)
        checkpoint["device"] = device_name(trainer.strategy.root_device)
        checkpoint["threads"] = torch.get_num_threads()

    # Resume

    @property
    def resumes_within_epoch(self) -> bool:
        """True before the first batch of an epoch of which an earlier process has done a part."""
        return self.resume_from is not None and self.resume_from["progress"]["batch"] > 0

    def on_fit_start(self, trainer: lightning.Trainer, model: Any) -> None:
        if self.resume_from is not None:  # the step of what is logged
            step = self.resume_from["progress"]["step"]
            trainer.fit_loop.epoch_loop._batches_that_stepped = step

    def on_train_start(self, trainer: lightning.Trainer, model: Any) -> None:
        signals.defer()
        self.saved = time.monotonic()
        if self.resume_from is None:
            reseed(0)
            return
        self.progress = TrainingProgress(**self.resume_from["progress"])
        now = device_name(trainer.strategy.root_device)
        if now != self.resume_from["device"]:
            log.warning("started on %s, now %s: %s", self.resume_from["device"], now, NOT_BITWISE)
        progress = trainer.fit_loop.epoch_progress
        for count in (progress.total, progress.current):
            for name in ("ready", "started", "processed", "completed"):
                setattr(count, name, self.progress.epoch)
        optimizer = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer
        optimizer.step.total.ready = optimizer.step.total.completed = self.progress.step
        trainer.should_stop = self.progress.stopped
        self._restore_random_state(trainer)
        if self.progress.batch == 0:
            self.resume_from = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, model: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.resume_from is None:
            return
        # Within an epoch: the sampler skips the finished batches; restore counters, outputs and
        # random state before the first new batch.
        progress = trainer.fit_loop.epoch_loop.batch_progress
        for count in (progress.total, progress.current):
            for name in ("ready", "started", "processed", "completed"):
                setattr(count, name, getattr(count, name) + self.progress.batch)
        model.load_outputs_state("train", self.resume_from["epoch_outputs"])
        if "val_outputs" in self.resume_from:
            model.load_outputs_state("val", self.resume_from["val_outputs"])
        self._restore_random_state(trainer)
        self.resume_from = None

    def _restore_random_state(self, trainer: lightning.Trainer) -> None:
        """That of this process; with another number of processes than before, a new one."""
        assert self.resume_from is not None
        states = [self.resume_from["random_state"], *self.resume_from.get("random_states", ())]
        rank = distributed.rank()
        if rank == 0 or len(states) == distributed.world_size():
            set_random_state(states[rank], trainer.strategy.root_device)
        else:
            reseed(self.progress.step)

    # Save

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.should_stop:  # then Lightning logs this step, whichever it is
            model.log_scalars(model.loss_of_step, trainer.optimizers[0])
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        # After its last batch an epoch is validated first; within a step there are gradients.
        if done == trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return
        if trainer.should_stop and trainer.fit_loop._can_stop_early:
            return  # the epoch ends here
        elapsed = time.monotonic() - self.saved
        due = self.every_seconds is not None and elapsed >= self.every_seconds
        due = due or bool(self.every_steps and done % self.every_steps == 0)
        signal, due = map(bool, distributed.maximum(signals.requested or 0, due))
        if signal or due:
            epoch, step = trainer.current_epoch, trainer.global_step
            progress = TrainingProgress(epoch, done, step, trainer.should_stop)
            assert trainer.val_check_batch is not None
            if done % trainer.val_check_batch == 0:  # a validation is next, and part of the state
                self.after_validation = progress
            else:
                self.save(trainer, progress)

    def on_validation_end(self, trainer: lightning.Trainer, model: Any) -> None:
        progress, self.after_validation = self.after_validation, None
        if progress is not None:
            self.save(trainer, progress)

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Any) -> None:
        epoch, step = trainer.current_epoch + 1, trainer.global_step
        progress = TrainingProgress(epoch, 0, step, trainer.should_stop)
        self.save(trainer, progress, self.run_logger.is_best)

    def save(
        self, trainer: lightning.Trainer, progress: TrainingProgress, best: bool = False
    ) -> None:
        self.progress = progress
        if best:  # before the last one, since a run that resumes from that one does not save it
            trainer.save_checkpoint(self.run.best)
        trainer.save_checkpoint(self.run.last)
        self.saved = time.monotonic()
        if distributed.agree_on_signal():  # one that arrives now waits for the next checkpoint
            signals.exit_if_requested()

    def on_train_end(self, trainer: lightning.Trainer, model: Any) -> None:
        distributed.agree_on_signal()
        signals.undefer()
        signals.exit_if_requested()

    def on_exception(
        self, trainer: lightning.Trainer, model: Any, exception: BaseException
    ) -> None:
        signals.undefer()


def reseed(step: int) -> None:
    """Seed each process but the first differently, from the run's seed."""
    if distributed.rank() > 0:
        seed = int(os.environ["PL_GLOBAL_SEED"])
        words = np.random.SeedSequence([seed, distributed.rank(), step]).generate_state(1)
        torch.manual_seed(int(words[0]))
