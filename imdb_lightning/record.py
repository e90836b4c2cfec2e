"""The record of a run while it goes on: metrics.json, TensorBoard, one line per epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from . import durable, figures, process, statistics
from .config import BEFORE, comparable
from .data.module import ReviewData
from .model.classifier import Classifier
from .run import Run


log = logging.getLogger(__name__)


class Record(Callback):
    """Writes each epoch as it ends, and the results when the run does."""

    def __init__(
        self,
        run: Run,
        identity: Mapping[str, Any],
        cfg: DictConfig,
        earlier: Mapping[str, Any] | None = None,
    ) -> None:
        """`earlier` is the `state` that a checkpoint has, of a run that goes on."""
        state = earlier or {"metrics": {"epochs": []}, "ends": []}
        self.run = run
        self.cfg = cfg
        self.metrics: dict[str, Any] = {**state["metrics"], "status": "running", **identity}
        self.ends: list[float] = list(state["ends"])  # of the epochs, by the clock
        self.train_tokens = 0
        self.train_seconds = state.get("train_seconds", 0.0)
        self.epoch_seconds = state.get("epoch_seconds", 0.0)  # of an epoch that goes on
        self.started = time.perf_counter() - state.get("seconds", 0.0)
        self.worked = time.process_time() - state.get("core_seconds", 0.0)
        self.writer: SummaryWriter | None = None

    def state(self, within_epoch: bool) -> dict[str, Any]:
        """What `earlier` is in a later process: plain containers."""
        now = time.perf_counter()
        return {
            "metrics": deepcopy(self.metrics),
            "ends": list(self.ends),
            "train_seconds": self.train_seconds,
            "epoch_seconds": now - self.epoch_started if within_epoch else 0.0,
            "seconds": now - self.started,
            "core_seconds": time.process_time() - self.worked,
        }

    @property
    def is_best(self) -> bool:
        """Whether the latest epoch is the best on val so far: of equals the first is."""
        return self.metrics["best_epoch"] == self.metrics["epochs"][-1]["epoch"]

    def begin(self, model: Classifier | None, data: ReviewData) -> None:
        """The data is there, and the model where PyTorch trains one; training starts next."""
        sizes = data.facts["reviews"]
        padding = data.padding()
        self.train_tokens = int(data.splits["train"].lengths.sum())
        self.metrics |= {
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad)
            if model is not None
            else self.cfg.model.embedding_size * (self.cfg.data.vocab_size + 1),
            "data": {**data.facts, "padding": padding},
            **({"refit": True} if self.cfg.data.refit else {}),
        }
        self.run.write_metrics(self.metrics)
        name = self.metrics["dataset"]
        # Written anew where the run goes on: the old file may hold epochs that come once more.
        goes_on = self.cfg.resume is not None
        old = [*self.run.path.glob("events.out.tfevents.*")] if goes_on else []
        self.writer = SummaryWriter(str(self.run.path))
        self.writer.add_text("dataset", name)
        for epoch, end in zip(self.metrics["epochs"], self.ends, strict=True):
            self._write_scalars(epoch, end)
        self.writer.flush()
        for file in old:
            file.unlink()
        log.info(
            "%s on %s, seed %s: %s parameters; %s reviews; %.1f %% padding",
            *(" ".join(self.kind()), name, self.metrics["seed"]),
            f"{self.metrics['parameters']:,}",
            ", ".join(f"{count:,} {split}" for split, count in sizes.items()),
            100 * padding,
        )
        log.info("%s", self.run.path)

    def on_train_epoch_start(self, trainer: lightning.Trainer, model: Any) -> None:
        self.epoch_started = time.perf_counter() - self.epoch_seconds
        self.epoch_seconds = 0.0

    def on_validation_start(self, trainer: lightning.Trainer, model: Any) -> None:
        if trainer.state.fn == "fit":
            self.train_seconds += time.perf_counter() - self.epoch_started

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Any) -> None:
        assert self.writer is not None
        val = {f"val/{name}": value for name, value in model.measures("val").items()}
        epoch = {
            "epoch": trainer.current_epoch + 1,
            **{f"train/{name}": value for name, value in model.measures("train").items()},
            **val,
            "seconds": time.perf_counter() - self.epoch_started,
        }
        epochs = self.metrics["epochs"]
        epochs.append(epoch)
        best = max(epochs, key=lambda e: e["val/acc"])  # the first of equals, as in best.ckpt
        val["val/acc_best"] = best["val/acc"]
        self.metrics |= {
            "best_epoch": best["epoch"],
            **val,
            "tokens_per_second": self.train_tokens * len(epochs) / self.train_seconds,
        }
        self.run.write_metrics(self.metrics)
        self.ends.append(time.time())
        self._write_scalars(epoch, self.ends[-1])
        self.writer.flush()
        self.tell(epoch, trainer.max_epochs or 0)

    def _write_scalars(self, epoch: Mapping[str, Any], end: float) -> None:
        assert self.writer is not None
        for name, value in epoch.items():
            if name != "epoch":
                # HParams shows the first metric: one of test, and not the time.
                tag = "train/seconds" if name == "seconds" else name
                self.writer.add_scalar(tag, value, epoch["epoch"], walltime=end)

    def tell(self, epoch: Mapping[str, Any], epochs: int) -> None:
        """One line for the terminal and train.log."""
        mark = "synthetic, " if self.metrics["dataset"] == "synthetic" else ""
        log.info(
            f"{mark}epoch {epoch['epoch']:{len(str(epochs))}}/{epochs}  "
            f"{_told(epoch, 'train')}  {_told(epoch, 'val')}  {epoch['seconds']:.1f} s"
        )

    def finish(self, device: torch.device, model: Classifier | None = None) -> dict[str, Any]:
        """The run is done: write its results, and return what metrics.json holds.

        `model` is a classifier, which was tested; without one it was a pretraining.
        """
        assert self.writer is not None
        seconds = time.perf_counter() - self.started
        self.metrics |= {
            "status": "done",
            "seconds": seconds,
            "core_seconds": time.process_time() - self.worked,  # of all threads together
            "device": device_name(device),
            "processor": process.processor(),
            "peak_memory": process.peak_memory(),
        }
        if model is None:
            self.writer.close()
            self.run.write_metrics(self.metrics)
            log.info(
                "done in %.0f s; a classifier begins with pretrained=%s", seconds, self.run.path
            )
            return self.metrics
        scores = {split: model.scores(split) for split in ("val", "test")}
        val, test = scores["val"], scores["test"]
        self.metrics |= {
            "temperature": 1.0
            if self.cfg.data.refit  # val was trained on, and tells none
            else statistics.temperature(val.margins_N.double().numpy(), val.labels_N.numpy()),
            "test/acc": test.accuracy,
            "test/loss": test.loss,
        }
        self.run.write_predictions(scores)
        curves = figures.learning_curves(self.metrics)
        durable.write(self.run.curves, figures.png(curves))
        epoch = self.metrics["epochs"][-1]["epoch"]
        for name in ("test/loss", "test/acc"):
            self.writer.add_scalar(name, self.metrics[name], epoch)
        self.writer.add_pr_curve("test", test.labels_N, test.margins_N.sigmoid(), epoch)
        self.writer.add_figure("test/confusion", figures.confusion_matrix(test), epoch)
        self.writer.add_figure("learning curves", curves, epoch)
        self._write_hparams()
        self.writer.close()
        self.run.write_metrics(self.metrics)  # last: "done" means that all the rest is there
        name = self.metrics["dataset"]
        log.info(
            f"{name} test accuracy {test.accuracy:.4f}, loss {test.loss:.4f} "
            f"({len(test.labels_N):,} reviews, {self.metrics['test_checkpoint']} checkpoint; "
            + (
                "val was trained on too"
                if self.cfg.data.refit
                else f"best val accuracy {self.metrics['val/acc_best']:.4f} in epoch "
                f"{self.metrics['best_epoch']}"
            )
            + f"; {seconds:.0f} s)"
        )
        log.info("%s", self.run.path)
        return self.metrics

    def kind(self) -> list[str]:
        """What is trained."""
        return [self.metrics[name] for name in ("pretrain", "model") if name in self.metrics]

    def fail(self, error: BaseException) -> None:
        """The run ended early: keep what there is and say why."""
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        self.metrics |= {
            "status": "interrupted" if stopped else "failed",
            "error": f"{type(error).__name__}: {error}",
        }
        try:  # on a full disk this fails as well, and what is there already stays
            if self.writer is not None:
                self.writer.close()
        except OSError as unwritable:
            log.error("%s", unwritable)
        try:
            self.run.write_metrics(self.metrics)
        except OSError as unwritable:
            log.error("%s", unwritable)

    def _write_hparams(self) -> None:
        """TensorBoard's HParams tab, in this run's own file.

        Not SummaryWriter.add_hparams, which opens a second directory for it. The metrics are
        scalars that are there already. Without a summary of the "experiment", TensorBoard takes the
        columns from all runs, those that differ first; with one, from the first run alone.
        """
        assert self.writer is not None and self.writer.file_writer is not None
        names = ("val/acc", "val/loss", "val/acc_best", "test/acc", "test/loss")
        values = {name: self.metrics[name] for name in names}
        last = self.metrics["epochs"][-1]["epoch"]
        self.writer.add_scalar("val/acc_best", values["val/acc_best"], last)
        _, *session = hparams(hyperparameters(self.cfg), values)
        for summary in session:
            self.writer.file_writer.add_summary(summary)


def _told(epoch: Mapping[str, Any], split: str) -> str:
    """The measures of a split."""
    return f"{split} loss {epoch[f'{split}/loss']:.4f} acc {epoch[f'{split}/acc']:.4f}"


def hyperparameters(cfg: DictConfig) -> dict[str, str | int | float | bool]:
    """The configuration for TensorBoard's HParams tab: flat, no null, no machine's paths."""
    values = comparable(cfg)
    for name in values.keys() & {*BEFORE}:
        paths = [values[name]] if isinstance(values[name], str) else values[name]
        values[name] = ", ".join(Path(path).name for path in paths)
    return {
        name: value if isinstance(value, str | int | float | bool) else str(value)
        for name, value in values.items()
    }


def device_name(device: torch.device) -> str:
    """What the run was computed on, such as "cpu (2 threads)" or a GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"
