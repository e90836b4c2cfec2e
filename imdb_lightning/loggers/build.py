"""The loggers of a run: Lightning's, by the names of the group `logger`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from matplotlib.figure import Figure
from omegaconf import DictConfig

from ..config.components import LOGGERS, chosen
from ..config.paths import absolute_path
from ..model.classifier import EvalOutput
from ..runs.run import Run
from . import figures
from .history import History
from .tensorboard import RunTensorBoard, hyperparameters


def build_loggers(cfg: DictConfig, run: Run, ids: Mapping[str, str]) -> dict[str, Logger]:
    """By their names. `ids` are those of an earlier process, to continue its records.

    Raises ImportError where a package is missing, and whatever a logger raises for its arguments.
    """
    return {n: _build(n, given, cfg, run, ids) for n, given in chosen(cfg, "logger").items()}


def _build(
    name: str, given: dict[str, Any], cfg: DictConfig, run: Run, ids: Mapping[str, str]
) -> Logger:
    if name == "tensorboard":
        return RunTensorBoard(run, cfg, **given)
    if name == "csv":
        (run.path / "metrics.csv").unlink(missing_ok=True)  # written again from the history
        return CSVLogger(run.path, name="", version="", **given)
    if name == "wandb":
        own = {"save_dir": run.path, "name": run.path.name, "id": ids.get(name) or new_id(run)}
        os.environ.setdefault("WANDB_SILENT", "true")  # its lines would stand between ours
        return WandbLogger(**{**own, "resume": "allow", **given})
    if name == "mlflow":
        if "://" not in given["tracking_uri"]:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # or else it wants a database
            given["tracking_uri"] = Path(absolute_path(given["tracking_uri"])).as_uri()
        return MLFlowLogger(**{"run_name": run.path.name, "run_id": ids.get(name), **given})
    return getattr(lightning.pytorch.loggers, LOGGERS[name])(**given)


def new_id(run: Run) -> str:
    return hashlib.sha256(f"{run.path} {run.path.stat().st_ctime_ns}".encode()).hexdigest()[:12]


def ids_of(loggers: Mapping[str, Logger]) -> dict[str, str]:
    """What a later process needs to continue a record elsewhere."""
    found: dict[str, str] = {}
    for name, logger in loggers.items():
        if isinstance(logger, MLFlowLogger | WandbLogger) and logger.version is not None:
            found[name] = str(logger.version)
    return found


def start(
    loggers: Mapping[str, Logger],
    history: History,
    cfg: DictConfig,
    dataset: str,
    ids: Mapping[str, str],
) -> None:
    """Before the first step: hyperparameters, and the scalars of an earlier process in files.

    A record that is continued has its hyperparameters: mlflow takes them once.
    """
    for name, logger in loggers.items():
        if isinstance(logger, RunTensorBoard):
            logger.start(history.scalars, dataset)
            continue
        if name not in ids:
            logger.log_hyperparams(hyperparameters(cfg))
        if isinstance(logger, CSVLogger):
            for step, _, values in history.scalars:
                logger.log_metrics(dict(values), step)


def add_test(
    loggers: Mapping[str, Logger], test: EvalOutput, curves: Figure, metrics: Mapping[str, Any]
) -> None:
    """The figures of the test, where a logger can hold them."""
    for logger in loggers.values():
        if isinstance(logger, RunTensorBoard):
            logger.add_test(test, curves, metrics)
            continue
        logger.log_metrics({"val/acc_best": metrics["val/acc_best"]}, metrics["steps"])
        if isinstance(logger, WandbLogger | MLFlowLogger):
            named = {
                "test/confusion": figures.confusion_matrix(test),
                "test/precision-recall": figures.precision_recall(test),
                "learning curves": curves,
            }
            for name, figure in named.items():
                if isinstance(logger, WandbLogger):
                    logger.log_image(name, [figure])
                else:
                    file = f"{name.replace('/', '_').replace(' ', '_')}.png"
                    logger.experiment.log_figure(logger.run_id, figure, file)
        logger.save()


def close(loggers: Mapping[str, Logger]) -> None:
    """At the end of a run: a later one in this process is another record."""
    if any(isinstance(logger, WandbLogger) for logger in loggers.values()):
        import wandb

        wandb.finish()
