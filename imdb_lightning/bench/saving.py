"""What it costs that nothing is lost: checkpoints within an epoch, and the look at every step."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf

from ..checkpoint import Checkpoints, Position
from ..data.module import ReviewData
from ..finite import Finite
from ..model.classifier import Classifier
from ..record import Record
from ..run import Run
from ..train import make_trainer
from .timing import in_turn, table


WARM_UP, STEPS, ROUNDS = 20, 200, 20


class Costs(lightning.Callback):
    """Milliseconds of a step, and then of both costs where training stands at the last one."""

    def __init__(self, checkpoints: Checkpoints, finite: Finite) -> None:
        self.checkpoints = checkpoints
        self.finite = finite
        self.step_ms = self.started = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == WARM_UP:
            self.started = time.perf_counter()
        if step != WARM_UP + STEPS:
            return
        self.step_ms = (time.perf_counter() - self.started) / STEPS * 1e3

        def look() -> None:
            self.finite.on_train_batch_start(trainer, model, batch, batch_idx)
            self.finite.on_before_backward(trainer, model, outputs["loss"])
            self.finite.on_before_optimizer_step(trainer, model, model.optimizers().optimizer)

        position = Position(0, step, step, False)
        # One after the other: a save leaves nothing in the processor's caches.
        self.times = in_turn({"look": look}, ROUNDS) | in_turn(
            {"save": lambda: self.checkpoints.save(trainer, position)}, ROUNDS
        )


def saving(cfg: DictConfig) -> dict[str, Any]:
    """Print and return both costs beside a training step of this configuration."""
    short = {"trainer": {"max_epochs": 1, "limit_train_batches": WARM_UP + STEPS}}
    changed = OmegaConf.merge(OmegaConf.to_container(cfg), short)
    assert isinstance(changed, DictConfig)
    data = ReviewData(cfg.data, cfg.seed)
    data.setup()
    if len(data.train_dataloader()) < WARM_UP + STEPS:
        raise ValueError(f"it takes {WARM_UP + STEPS} batches an epoch; give data.batch_size=LESS")
    lightning.seed_everything(cfg.seed, verbose=False)
    model = Classifier.from_config(cfg.model, cfg.optim)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        run = Run(Path(folder))
        record = Record(run, {"dataset": cfg.data.name, "model": cfg.model.name, "seed": 0}, cfg)
        record.begin(model, data)
        trainer: Any = make_trainer(changed, run, record, None)
        (finite,) = [c for c in trainer.callbacks if isinstance(c, Finite)]
        (checkpoints,) = [c for c in trainer.callbacks if isinstance(c, Checkpoints)]
        costs = Costs(checkpoints, finite)
        trainer.callbacks.append(costs)
        trainer.fit(model, datamodule=data)
        size = run.last.stat().st_size
    look, save = costs.times["look"], costs.times["save"]
    rows = [
        ["a training step, the look included", f"{costs.step_ms:.2f}", ""],
        ["the look at loss and gradients", str(look), f"{look.median / costs.step_ms:.1%} of it"],
        ["a checkpoint", str(save), f"{save.median / 60e3:.2%} of a minute"],
    ]
    print(f"\n{cfg.model.name} on {cfg.data.name}; a checkpoint has {size / 1e6:.1f} MB")
    print(table(["", "ms", "share"], rows))
    return {
        "step_ms": costs.step_ms,
        "checkpoint_bytes": size,
        "threads": torch.get_num_threads(),
        **{f"{name}_ms": taken._asdict() for name, taken in costs.times.items()},
    }
