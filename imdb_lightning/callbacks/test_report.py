"""The test report: what a run writes once it has been tested."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from ..loggers import figures
from ..loggers.build import add_test
from ..metrics.calibration import fit_temperature
from ..runs import predictions, storage
from ..runs.run import Run
from .run_logger import RunLogger


log = logging.getLogger(__name__)


class TestReport(Callback):
    """Test metrics, temperature, predictions.parquet, curves.png and the loggers' figures."""

    __test__ = False  # pytest: no tests in here

    def __init__(self, run: Run, run_logger: RunLogger, loggers: Mapping[str, Logger]) -> None:
        self.run = run
        self.run_logger = run_logger
        self.loggers = loggers

    def on_test_end(self, trainer: lightning.Trainer, model: Any) -> None:
        metrics = self.run_logger.metrics
        val, test = model.eval_output("val"), model.eval_output("test")
        has_val = not metrics.get("train_on_val")
        self.run_logger.add_resources(trainer.strategy.root_device)
        metrics |= {
            # A model that was trained on val is not calibrated on it.
            "temperature": fit_temperature(val.logit_N.double().numpy(), val.labels_N.numpy())
            if has_val
            else 1.0,
            "test/acc": test.accuracy,
            "test/loss": test.loss,
        }
        if not self.run.writes:
            return
        predictions.write(self.run.predictions, {"val": val, "test": test})
        curves = figures.learning_curves(metrics)
        storage.atomic_write(self.run.curves, figures.png(curves))
        add_test(self.loggers, test, curves, metrics)
        self.run_logger.on_run_end()
        best = f"best val accuracy {metrics['val/acc_best']:.4f} in epoch {metrics['best_epoch']}"
        log.info(
            f"{metrics['dataset']} test accuracy {test.accuracy:.4f}, loss {test.loss:.4f} "
            f"({len(test.labels_N):,} reviews, {metrics['test_checkpoint']} checkpoint; "
            f"{best if has_val else 'trained on val too'}; {metrics['seconds']:.0f} s)"
        )
        if not self.run_logger.keeps_nothing:
            log.info("%s", self.run.path)
