"""One run, read from top to bottom: data, model, fit, test once, write."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from . import process
from .data.module import ReviewData
from .model.classifier import Classifier
from .record import Record
from .run import Run


log = logging.getLogger(__name__)


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train, test once and record in `run_dir`; returns what metrics.json holds.

    Raises DataError where the reviews cannot be used and RunExists where `run_dir` has a run.
    Whatever else ends the run early is raised too, after metrics.json has it as its "status".
    """
    started = time.perf_counter()
    run = Run.claim(run_dir, {"status": "running", **identity(cfg)})
    record = Record(run, identity(cfg), cfg)
    try:
        quiet()
        process.prepare()
        lightning.seed_everything(cfg.seed, workers=True, verbose=False)
        data = ReviewData(cfg.data, cfg.seed)
        data.setup()
        run.write(run.tokenizer, data.tokenizer.encode())
        model = Classifier.from_config(cfg.model, cfg.optim)
        record.begin(model, data)

        trainer = make_trainer(cfg.trainer, run, record)
        with logging_redirect_tqdm():  # lines above the progress bar, not in it
            trainer.fit(model, datamodule=data)

        if cfg.test_checkpoint == "best":
            weights = torch.load(run.best, map_location="cpu", weights_only=True)["state_dict"]
            model.load_state_dict(weights)
            trainer.validate(model, datamodule=data, verbose=False)
        trainer.test(model, datamodule=data, verbose=False)
        device = trainer.strategy.root_device
        return record.finish(model, device, time.perf_counter() - started)
    except BaseException as error:
        record.fail(error)
        raise
    finally:
        run.release()


def make_trainer(options: Mapping[str, Any], run: Run, record: Record) -> lightning.Trainer:
    """lightning.Trainer with the group `trainer`, the best and the last checkpoint, a record."""
    arguments = {name: value for name, value in options.items() if name != "early_stopping"}
    on_terminal = sys.stdout.isatty()
    callbacks: list[Callback] = [
        record,  # before the checkpoints, so that metrics.json is never behind them
        ModelCheckpoint(
            run.best.parent, "best", monitor="val/acc", mode="max", enable_version_counter=False
        ),
        ModelCheckpoint(run.last.parent, "last", enable_version_counter=False),
    ]
    if options["early_stopping"] is not None:
        patience = options["early_stopping"]
        callbacks.append(EarlyStopping("val/acc", mode="max", patience=patience))
    if on_terminal:
        callbacks.append(Bar(refresh_rate=10, leave=False))
    return lightning.Trainer(
        **arguments,
        callbacks=callbacks,
        logger=False,  # `record` writes TensorBoard's file itself, into the run directory
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=on_terminal,
        default_root_dir=run.path,
    )


class Bar(TQDMProgressBar):
    """A progress bar that counts epochs from 1, as all else here does."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}")


def identity(cfg: DictConfig) -> dict[str, Any]:
    """What a run is, known before it starts."""
    return {
        "dataset": cfg.data.name,
        "model": cfg.model.name,
        "seed": cfg.seed,
        "test_checkpoint": cfg.test_checkpoint,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("imdb-lightning", "torch", "lightning")},
            **{name: version(name) for name in ("hydra-core", "datasets", "tokenizers")},
        },
        "git": git_commit(),
    }


def git_commit() -> str | None:
    """Commit of the checkout that this code runs from, "-dirty" with changes; None elsewhere."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def quiet() -> None:
    """Lightning's advice that does not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Reviews are encoded beforehand: loader workers cost more than they bring (2026-11).
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Lightning 2.6.6 asks torch 2.13 in a way that it will drop (2026-11).
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
