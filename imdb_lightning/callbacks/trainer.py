"""The Trainer of a run: lightning.Trainer with the configured arguments and callbacks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import lightning
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelSummary, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from omegaconf import DictConfig

from ..config.schema import devices_of
from ..runs import checkpoint
from ..runs.run import Run
from ..runtime import distributed
from .adversarial import AdversarialTraining
from .configured import configured_callbacks
from .data_parallel import DataParallel, GradientSum
from .ema import EMA
from .progress import EpochProgressBar
from .summary import Summary


PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def build_trainer(
    cfg: DictConfig, run: Run, callbacks: Sequence[Callback], loggers: Iterable[Logger] = ()
) -> lightning.Trainer:
    """lightning.Trainer with the group `trainer`, these callbacks, and the configured ones."""
    arguments: dict[str, Any] = {**cfg.trainer}
    on_terminal = sys.stdout.isatty()
    shown: dict[str, Any] = {
        name: arguments.pop(name, on_terminal)
        for name in ("enable_progress_bar", "enable_model_summary")
    }
    if overfit := arguments.pop("overfit_batches", None):  # Lightning's would replace our sampler
        arguments |= dict.fromkeys(("limit_train_batches", "limit_val_batches"), overfit)
    if profiler := arguments.pop("profiler", None):
        arguments["profiler"] = PROFILERS[profiler](dirpath=run.path, filename="profile")
    configured = [
        callback
        for callback in configured_callbacks(cfg)
        if shown["enable_progress_bar"] or not isinstance(callback, ProgressBar)
    ]
    if not run.writes:  # another process shows it
        shown = dict.fromkeys(shown, False)
        configured = [c for c in configured if not isinstance(c, ProgressBar | ModelSummary)]
    if any(isinstance(callback, ProgressBar) for callback in configured):
        shown["enable_progress_bar"] = True
    elif shown["enable_progress_bar"]:
        configured.append(EpochProgressBar(refresh_rate=10, leave=False))
    if any(isinstance(callback, ModelSummary) for callback in configured):
        shown["enable_model_summary"] = True
    elif shown["enable_model_summary"]:
        configured.append(Summary())
    if cfg.optim.adversarial_epsilon is not None:
        configured.append(AdversarialTraining(cfg.optim.adversarial_epsilon))
    if cfg.optim.ema_decay is not None:
        configured.append(EMA(decay=cfg.optim.ema_decay))
    count = devices_of(cfg) * arguments.get("num_nodes", 1)
    if count != distributed.world_size():
        raise MisconfigurationException(
            f"this is one of {distributed.world_size()} processes, and the run wants {count}: "
            "python -m imdb_lightning starts several, with hydra/launcher=local_pool or slurm"
        )
    plugins: list[Any] = [checkpoint.ChecksummedCheckpointIO()]
    arguments.pop("strategy", None)  # there is one for one process and one for several
    if distributed.world_size() > 1:
        arguments |= {"strategy": DataParallel(), "use_distributed_sampler": False}
        plugins.append(TorchElasticEnvironment())
        callbacks = [GradientSum(), *callbacks]
    return lightning.Trainer(
        **arguments,
        **shown,
        callbacks=[*callbacks, *configured],
        plugins=plugins,
        logger=[*loggers],
        num_sanity_val_steps=0,
        default_root_dir=run.path,
    )
