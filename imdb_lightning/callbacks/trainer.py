"""The Trainer of a run: lightning.Trainer with the configured arguments and callbacks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from omegaconf import DictConfig

from ..runs import checkpoint
from ..runs.run import Run
from .adversarial import AdversarialTraining
from .ema import EMA
from .progress import EpochProgressBar


PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def build_trainer(cfg: DictConfig, run: Run, callbacks: Sequence[Callback]) -> lightning.Trainer:
    """lightning.Trainer with the group `trainer`, these callbacks, and the configured ones."""
    arguments: dict[str, Any] = {**cfg.trainer}
    on_terminal = sys.stdout.isatty()
    shown: dict[str, Any] = {
        name: on_terminal and arguments.pop(name, True)
        for name in ("enable_progress_bar", "enable_model_summary")
    }
    if overfit := arguments.pop("overfit_batches", None):  # Lightning's would replace our sampler
        arguments |= dict.fromkeys(("limit_train_batches", "limit_val_batches"), overfit)
    if profiler := arguments.pop("profiler", None):
        arguments["profiler"] = PROFILERS[profiler](dirpath=run.path, filename="profile")
    configured: list[Callback] = []
    if cfg.optim.adversarial_epsilon is not None:
        configured.append(AdversarialTraining(cfg.optim.adversarial_epsilon))
    if cfg.optim.ema_decay is not None:
        configured.append(EMA(decay=cfg.optim.ema_decay))
    patience = cfg.callbacks.early_stopping.patience
    if patience is not None:
        configured.append(EarlyStopping("val/acc", mode="max", patience=patience))
    if shown["enable_progress_bar"]:
        configured.append(EpochProgressBar(refresh_rate=10, leave=False))
    return lightning.Trainer(
        **arguments,
        **shown,
        callbacks=[*callbacks, *configured],
        plugins=[checkpoint.ChecksummedCheckpointIO()],
        logger=False,  # TensorBoard, one of the callbacks, writes into the run directory
        num_sanity_val_steps=0,
        default_root_dir=run.path,
    )
