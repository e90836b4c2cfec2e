"""The cost of losing nothing: checkpoints within an epoch, and the guard in every step."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf

from ..callbacks.checkpoints import RunCheckpoint
from ..callbacks.non_finite import NonFiniteGuard
from ..callbacks.run_logger import RunLogger
from ..data.datamodule import ReviewDataModule
from ..model.classifier import Classifier
from ..runs.checkpoint import TrainingProgress
from ..runs.run import Run
from ..train import build_trainer
from .timing import StepTimer, interleaved, table


WARM_UP, STEPS, ROUNDS = 20, 200, 20


class Costs(StepTimer):
    """Milliseconds a step and, after the last one, of both costs."""

    def __init__(self, checkpoints: RunCheckpoint, guard: NonFiniteGuard) -> None:
        super().__init__(WARM_UP, STEPS)
        self.checkpoints = checkpoints
        self.guard = guard

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer)
        step = trainer.global_step
        if step != self.last:
            return

        def check() -> None:
            self.guard.on_train_batch_start(trainer, model, batch, batch_idx)
            self.guard.on_before_backward(trainer, model, outputs["loss"])
            self.guard.on_before_optimizer_step(trainer, model, model.optimizers().optimizer)

        progress = TrainingProgress(0, step, step, False)
        # One after the other, since a save empties the processor's caches.
        self.times = interleaved({"guard": check}, ROUNDS) | interleaved(
            {"save": lambda: self.checkpoints.save(trainer, progress)}, ROUNDS
        )


def checkpointing(cfg: DictConfig) -> dict[str, Any]:
    """Print and return both costs beside a training step of this configuration."""
    short = {"trainer": {"max_epochs": 1, "limit_train_batches": WARM_UP + STEPS}}
    changed = OmegaConf.merge(OmegaConf.to_container(cfg), short)
    assert isinstance(changed, DictConfig)
    data = ReviewDataModule(cfg.data, cfg.seed)
    data.setup()
    if len(data.train_dataloader()) < WARM_UP + STEPS:
        raise ValueError(f"needs {WARM_UP + STEPS} batches an epoch; give data.batch_size=LESS")
    lightning.seed_everything(cfg.seed, verbose=False)
    model = Classifier.from_config(cfg.model, cfg.optim)
    metadata = {"dataset": cfg.data.name, "model": cfg.model.name, "seed": cfg.seed}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        run = Run(Path(folder))
        run_logger = RunLogger(run, metadata)
        guard = NonFiniteGuard(run)
        checkpoints = RunCheckpoint(run, run_logger, **cfg.checkpoint)
        costs = Costs(checkpoints, guard)
        trainer = build_trainer(changed, run, [run_logger, guard, checkpoints, costs])
        trainer.fit(model, datamodule=data)
        size = run.last.stat().st_size
    check, save = costs.times["guard"], costs.times["save"]
    rows = [
        ["a training step, with the guard", f"{costs.step_ms:.2f}", ""],
        [
            "the guard's check of loss and gradients",
            str(check),
            f"{check.median / costs.step_ms:.1%}",
        ],
        ["a checkpoint", str(save), f"{save.median / 60e3:.2%} of a minute"],
    ]
    print(f"\n{cfg.model.name} on {cfg.data.name}; a checkpoint has {size / 1e6:.1f} MB")
    print(table(["", "ms", "share"], rows))
    return {
        "step_ms": costs.step_ms,
        "checkpoint_bytes": size,
        "threads": torch.get_num_threads(),
        **{f"{name}_ms": times._asdict() for name, times in costs.times.items()},
    }
