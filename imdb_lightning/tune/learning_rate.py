"""The curve of the loss over the learning rate."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import NamedTuple

import lightning
import numpy as np
from lightning.pytorch.tuner import Tuner
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from ..data.datamodule import ReviewDataModule
from ..loggers.figures import png
from ..model.classifier import Classifier
from ..runs import storage
from ..runtime import process


BETA = 0.98  # of Lightning's moving average
USED = (  # arguments of the Trainer that change a step
    *("accelerator", "devices", "precision", "deterministic", "accumulate_grad_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "detect_anomaly"),
)


class Found(NamedTuple):
    """Losses by the rates of a short training, and the rate at which the loss falls fastest."""

    rates: list[float]
    losses: list[float]  # exponentially smoothed, nats per review
    suggested: float | None  # None if it falls nowhere


def find(cfg: DictConfig, steps: int, lowest: float, highest: float) -> Found:
    """Train `steps` batches with rates that rise exponentially. Raises DataError."""
    cfg = OmegaConf.merge(cfg, {"schedule": {"name": "constant"}})  # type: ignore[assignment]
    with process.preserve_global_state(), tempfile.TemporaryDirectory() as folder:
        process.ignore_lightning_warnings()
        process.configure()
        lightning.seed_everything(cfg.seed, workers=True, verbose=False)
        data = ReviewDataModule(cfg.data, cfg.seed)
        data.setup()
        model = Classifier.from_config(cfg.model, cfg.optim)
        trainer = lightning.Trainer(
            **{name: cfg.trainer[name] for name in USED if name in cfg.trainer},
            max_epochs=steps,  # at least as many as the finder needs
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # its bar
            found = Tuner(trainer).lr_find(
                model,
                datamodule=data,
                min_lr=lowest,
                max_lr=highest,
                num_training=steps,
                update_attr=False,
            )
    assert found is not None
    losses = smoothed(found.results["loss"])
    return Found(found.results["lr"], losses, steepest(found.results["lr"], losses))


def smoothed(losses: Sequence[float]) -> list[float]:
    """Lightning's average of the losses, with the weight of its start corrected.

    It divides by 1 - BETA ** (n + 1) after n steps, where the weights add up to 1 - BETA ** n: its
    curve starts at half the loss.
    """
    return [loss * (1 - BETA ** (n + 1)) / (1 - BETA**n) for n, loss in enumerate(losses, 1)]


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the loss falls fastest, before it is lowest; None if it falls nowhere."""
    first = len(losses) // 10  # an average of few batches goes up and down by itself
    lowest = first + int(np.argmin(losses[first:]))
    if lowest < first + 2:
        return None
    part = slice(first, lowest + 1)
    slopes = np.gradient(np.array(losses[part]), np.log(rates[part]))
    return float(rates[first + int(np.argmin(slopes))])


def draw(found: Found, model: str, file: Path) -> None:
    """The curve as a PNG. Raises OSError."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss (nats per review, smoothed)")
    axes.grid(alpha=0.3)
    if found.suggested is not None:
        axes.axvline(found.suggested, color="tab:red", linestyle=":")
        axes.set_title(f"{model}: the loss falls fastest at {found.suggested:.1e}")
    file.parent.mkdir(parents=True, exist_ok=True)
    storage.atomic_write(file, png(figure))
