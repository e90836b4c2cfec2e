"""Train and test one run: reviews, model, fit, test once. Read it from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from .callbacks.checkpoints import RunCheckpoint
from .callbacks.non_finite import NonFiniteGuard
from .callbacks.pruning import pruning
from .callbacks.run_logger import RunLogger
from .callbacks.test_report import TestReport
from .callbacks.trainer import build_trainer
from .callbacks.validations import Validations
from .data.datamodule import ReviewDataModule
from .loggers.build import build_loggers, close
from .model.classifier import Classifier
from .runs import checkpoint, resume, storage
from .runs.run import Follower, Run
from .runtime import contention, distributed, process, provenance
from .transfer.pretrained import Pretrained
from .transfer.teacher import Teachers


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train, test once and record in `run_dir`; returns the content of metrics.json.

    `cfg.resume` resumes the run in `run_dir` from its latest checkpoint. Raises DataError if the
    reviews cannot be used, RunExistsError if `run_dir` has a run, RunLockedError if another process
    is working in it, ResumeError or CorruptCheckpointError if it cannot be resumed. Whatever else
    ends the run early is raised as well, after metrics.json has it as its "error".
    """
    metadata = provenance.run_metadata(cfg)
    with process.preserve_global_state(), contention.yield_to_others():
        if distributed.rank() > 0:
            return _follow(cfg, Follower(run_dir), metadata)
        if cfg.resume is None:
            with Run.create(run_dir, {"status": "running", **metadata}) as run:
                return _train(cfg, run, RunLogger(run, metadata), None, {})
        with Run.open(run_dir) as run:
            return _resume(cfg, run, metadata)


def _resume(cfg: DictConfig, run: Run, metadata: Mapping[str, Any]) -> dict[str, Any]:
    found = resume.load_checkpoint(run, cfg.test_checkpoint == "best", cfg.trainer.max_epochs)
    path, resumed = found or (None, {})
    if resumed and resumed["threads"] <= process.cores():
        torch.set_num_threads(resumed["threads"])  # they determine the order of sums
    return _train(cfg, run, RunLogger(run, metadata, resumed.get("run_log")), path, resumed)


def _follow(cfg: DictConfig, run: Run, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """In a process of the run that is not its first one."""
    if cfg.resume is not None:
        return _resume(cfg, run, metadata)
    return _train(cfg, run, RunLogger(run, metadata), None, {})


def _train(
    cfg: DictConfig, run: Run, run_logger: RunLogger, path: Path | None, resumed: dict[str, Any]
) -> dict[str, Any]:
    """`resumed` is the content of the checkpoint in `path`; empty for a new run."""
    try:
        process.ignore_lightning_warnings()
        process.configure()
        lightning.seed_everything(cfg.seed, workers=True, verbose=False)

        pretrained = None if cfg.pretrained is None else Pretrained(cfg.pretrained)
        teachers = None if cfg.teacher is None else Teachers(cfg.teacher)
        progress = resumed.get("progress", {"epoch": 0, "batch": 0})
        data = ReviewDataModule(
            cfg.data,
            cfg.seed,
            tokenizer_json=pretrained.tokenizer_json() if pretrained else None,
            for_pretraining="pretrain" in cfg,
            teacher=teachers.soft_labels if teachers else None,
            upstream={
                **({"pretrained": pretrained.provenance()} if pretrained else {}),
                **({"teacher": teachers.provenance()} if teachers else {}),
            },
            resume_position=(progress["epoch"], progress["batch"]),
            overfit=bool(cfg.trainer.get("overfit_batches")),
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        data.setup()
        if cfg.resume is not None:
            known = {**data.metadata, "padding": data.padding()}
            resume.check_data(run, data.tokenizer_json, known, resumed or None)
            resume.log_position(resumed or None, run_logger.metrics["versions"])
        run.write_config(cfg)
        if run.writes:
            storage.atomic_write(run.tokenizer, data.tokenizer_json.encode())

        if "pretrain" in cfg:
            from .pretrain.vectors import pretrain_vectors  # gensim is an extra

            return pretrain_vectors(cfg, run, run_logger, data)

        soft_labels_N = data.soft_labels_N
        model = Classifier.from_config(
            cfg.model,
            cfg.optim,
            cfg.schedule,
            soft_labels_N=None if soft_labels_N is None else torch.from_numpy(soft_labels_N),
            pretrained=pretrained.state_dict() if pretrained else None,
        )
        loggers = build_loggers(cfg, run, run_logger.logger_ids) if run.writes else {}
        callbacks: list[Callback] = [
            Validations(),
            run_logger,  # before the checkpoints, so that metrics.json is never behind them
            *(pruned := pruning(run.path, run_logger)),
            NonFiniteGuard(run),
            RunCheckpoint(run, run_logger, **cfg.checkpoint, resume_from=resumed or None),
            TestReport(run, run_logger, loggers),
        ]
        run_logger.start_logging(cfg, loggers)
        every = [run_logger.history, *loggers.values()]
        trainer = build_trainer(cfg, run, callbacks, every)
        with logging_redirect_tqdm():  # lines above the progress bar, not in it
            trainer.fit(model, datamodule=data, ckpt_path=path)
            resumed.clear()  # the memory of a second set of weights
            if any(callback.has_pruned for callback in pruned):
                return run_logger.on_run_pruned(model.device)

            if cfg.test_checkpoint == "best":
                model.load_state_dict(checkpoint.read_state_dict(run.best))
            if cfg.test_checkpoint == "best" or not model.has_outputs("val"):
                trainer.validate(model, datamodule=data, verbose=False)
            trainer.test(model, datamodule=data, verbose=False)
        return run_logger.metrics
    except BaseException as error:
        if cfg.resume is None or run_logger.has_started:  # else nothing has been written yet
            run_logger.on_run_failed(error)
        raise
    finally:
        close(run_logger.loggers)
