"""The TensorBoard writer: one event file in the run directory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ..config.identity import UPSTREAM_KEYS, canonical_config
from ..model.classifier import EvalOutput
from ..runs.run import Run
from . import figures


if TYPE_CHECKING:
    from ..callbacks.run_logger import RunLogger

log = logging.getLogger(__name__)


class TensorBoard(Callback):
    """Scalars by epoch, then the test results; after `run_logger` in the list of callbacks.

    When a run is resumed the event file is rewritten: the old one may contain epochs that will be
    repeated.
    """

    def __init__(self, run: Run, run_logger: RunLogger, cfg: DictConfig) -> None:
        self.run = run
        self.is_resumed = cfg.resume is not None
        self.run_logger = run_logger
        self.hyperparameters = hyperparameters(cfg)
        self.writer: SummaryWriter | None = None

    def on_fit_start(self, trainer: lightning.Trainer, model: Any) -> None:
        old = [*self.run.path.glob("events.out.tfevents.*")] if self.is_resumed else []
        self.writer = SummaryWriter(str(self.run.path))
        metrics = self.run_logger.metrics
        self.writer.add_text("dataset", metrics["dataset"])
        for epoch, end in zip(metrics["epochs"], self.run_logger.epoch_ends, strict=True):
            self._add_scalars(epoch, end)
        self.writer.flush()
        for file in old:
            file.unlink()

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Any) -> None:
        self._add_scalars(self.run_logger.metrics["epochs"][-1], self.run_logger.epoch_ends[-1])
        assert self.writer is not None
        self.writer.flush()

    def _add_scalars(self, epoch: Mapping[str, Any], end: float) -> None:
        assert self.writer is not None
        for name, value in epoch.items():
            if name != "epoch":
                # HParams shows the first metric: a test one, not the time.
                tag = "train/seconds" if name == "seconds" else name
                self.writer.add_scalar(tag, value, epoch["epoch"], walltime=end)

    def add_test(self, test: EvalOutput, curves: Figure) -> None:
        """The test results, and the hyperparameters beside them. Closes the file."""
        assert self.writer is not None
        metrics = self.run_logger.metrics
        epoch = metrics["epochs"][-1]["epoch"]
        for name in ("test/loss", "test/acc"):
            self.writer.add_scalar(name, metrics[name], epoch)
        self.writer.add_pr_curve("test", test.labels_N, test.logit_N.sigmoid(), epoch)
        self.writer.add_figure("test/confusion", figures.confusion_matrix(test), epoch)
        self.writer.add_figure("learning curves", curves, epoch)
        self._add_hparams(metrics)
        self.writer.close()

    def _add_hparams(self, metrics: Mapping[str, Any]) -> None:
        """TensorBoard's HParams tab, in this run's own file.

        Not SummaryWriter.add_hparams, which writes into a second directory. The metrics are
        scalars that have been written already. Without a summary of the "experiment", TensorBoard
        takes the columns from all runs, those that differ first; with one, from the first run.
        """
        assert self.writer is not None and self.writer.file_writer is not None
        names = ("val/acc", "val/loss", "val/acc_best", "test/acc", "test/loss")
        values = {name: metrics[name] for name in names}
        last = metrics["epochs"][-1]["epoch"]
        self.writer.add_scalar("val/acc_best", values["val/acc_best"], last)
        _, *session = hparams(self.hyperparameters, values)
        for summary in session:
            self.writer.file_writer.add_summary(summary)

    def on_exception(
        self, trainer: lightning.Trainer, model: Any, exception: BaseException
    ) -> None:
        try:  # fails on a full disk
            if self.writer is not None:
                self.writer.close()
        except OSError as unwritable:
            log.error("%s", unwritable)


def hyperparameters(cfg: DictConfig) -> dict[str, str | int | float | bool]:
    """The configuration for the HParams tab: flat, no null, no paths of this machine."""
    values = canonical_config(cfg)
    for key in UPSTREAM_KEYS:
        if values.get(key):
            paths = [values[key]] if isinstance(values[key], str) else values[key]
            values[key] = ", ".join(Path(path).name for path in paths)
    return {
        key: value if isinstance(value, str | int | float | bool) else str(value)
        for key, value in values.items()
    }
