"""TensorBoard in the run directory: Lightning's logger, with one event file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ..config.identity import UPSTREAM_KEYS, canonical_config
from ..model.classifier import EvalOutput
from ..runs.run import Run
from . import figures
from .history import Scalars


SHOWN = ("val/acc", "val/loss", "val/acc_best", "test/acc", "test/loss")  # in the HParams tab


class RunTensorBoard(TensorBoardLogger):
    """Lightning's logger in the run directory itself.

    When a run is resumed the event file is written again from the scalars of the checkpoint: the
    old one may contain steps that will be repeated.
    """

    def __init__(self, run: Run, cfg: DictConfig, **options: Any) -> None:
        super().__init__(run.path, name="", version="", default_hp_metric=False, **options)
        self.hyperparameters = hyperparameters(cfg)
        self.old = [*run.path.glob("events.out.tfevents.*")] if cfg.resume is not None else []

    @property
    def log_dir(self) -> str:
        return self.root_dir.rstrip("/")

    @property
    def writer(self) -> SummaryWriter:
        return self.experiment

    def start(self, scalars: Iterable[Scalars], dataset: str) -> None:
        """The scalars so far, in a new file; then the old one goes."""
        self.writer.add_text("dataset", dataset)
        for step, when, values in scalars:
            for name, value in without_epoch(values).items():
                self.writer.add_scalar(name, value, step, walltime=when)
        self.writer.flush()
        for file in self.old:
            file.unlink(missing_ok=True)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(without_epoch(metrics), step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """At the end of the run, by `add_test`."""

    def save(self) -> None:
        """Flushes. Lightning's writes hparams.yaml too; .hydra/config.yaml has all of it."""
        self.writer.flush()

    def finalize(self, status: str) -> None:
        """Flushes. Lightning's closes the file after the fit, and the test would be in another."""
        self.save()

    def add_test(self, test: EvalOutput, curves: Figure, metrics: Mapping[str, Any]) -> None:
        """Figures of the test, and the hyperparameters beside the final metrics."""
        step = metrics["steps"]
        self.writer.add_pr_curve("test", test.labels_N, test.logit_N.sigmoid(), step)
        self.writer.add_figure("test/confusion", figures.confusion_matrix(test), step)
        self.writer.add_figure("learning curves", curves, step)
        self._add_hparams(metrics)
        self.writer.close()

    def _add_hparams(self, metrics: Mapping[str, Any]) -> None:
        """TensorBoard's HParams tab, in this run's own file.

        Not SummaryWriter.add_hparams, which writes into a second directory. The metrics are
        scalars that have been written already. Without a summary of the "experiment", TensorBoard
        takes the columns from all runs, those that differ first; with one, from the first run.
        """
        assert self.writer.file_writer is not None
        self.writer.add_scalar("val/acc_best", metrics["val/acc_best"], metrics["steps"])
        _, *session = hparams(self.hyperparameters, {name: metrics[name] for name in SHOWN})
        for summary in session:
            self.writer.file_writer.add_summary(summary)


def without_epoch(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning adds the epoch to all that is logged: the first chart would be a staircase."""
    return {name: value for name, value in metrics.items() if name != "epoch"}


def hyperparameters(cfg: DictConfig) -> dict[str, str | int | float | bool]:
    """The configuration as hyperparameters: flat, no null, no paths of this machine."""
    values = canonical_config(cfg)
    for key in UPSTREAM_KEYS:
        if values.get(key):
            paths = [values[key]] if isinstance(values[key], str) else values[key]
            values[key] = ", ".join(Path(path).name for path in paths)
    return {
        key: value if isinstance(value, str | int | float | bool) else str(value)
        for key, value in values.items()
    }
