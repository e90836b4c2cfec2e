"""The run log: metrics.json after every epoch, and one line for the terminal and train.log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import nn

from ..data.datamodule import ReviewDataModule
from ..loggers.build import ids_of, start
from ..loggers.history import History
from ..runs.run import Run
from ..runtime import distributed
from ..runtime.provenance import device_name, peak_memory, processor_name


log = logging.getLogger(__name__)

FASTER = {  # the cells that compute the same as PyTorch's layers
    nn.RNN: "custom_rnn",
    nn.LSTM: "custom_lstm",
    nn.GRU: "custom_gru model.cell.reset=after",
}


class RunLogger(Callback):
    """Records a run while it trains.

    `metadata` describes the run before it starts. `state` is that of an earlier process, from a
    checkpoint.
    """

    def __init__(
        self, run: Run, metadata: Mapping[str, Any], state: Mapping[str, Any] | None = None
    ) -> None:
        state = state or {"metrics": {"epochs": []}}
        self.run = run
        self.metrics: dict[str, Any] = {**state["metrics"], "status": "running", **metadata}
        self.history = History(state.get("scalars", ()))
        self.logger_ids: dict[str, str] = dict(state.get("loggers", {}))
        self.loggers: Mapping[str, Logger] = {}
        self.keeps_nothing = False  # a fast_dev_run
        self.has_started = False
        self.train_tokens = 0
        self.train_seconds = state.get("train_seconds", 0.0)
        self.epoch_seconds = state.get("epoch_seconds", 0.0)  # of a resumed epoch
        self.since_validation = state.get("since_validation", 0.0)  # seconds of that, in its end
        self.started = time.perf_counter() - state.get("seconds", 0.0)
        self.cpu_started = time.process_time() - state.get("cpu_seconds", 0.0)

    def start_logging(self, cfg: DictConfig, loggers: Mapping[str, Logger]) -> None:
        """Before the first step of this process."""
        self.loggers = loggers
        start(loggers, self.history, cfg, self.metrics["dataset"], self.logger_ids)

    def state(self, trainer: lightning.Trainer, within_epoch: bool) -> dict[str, Any]:
        """The constructor's `state` in a later process: plain containers."""
        now = time.perf_counter()
        return {
            "metrics": deepcopy(self.metrics),
            "scalars": self.history.state(trainer, within_epoch),
            "loggers": ids_of(self.loggers),
            "train_seconds": self.train_seconds,
            "epoch_seconds": now - self.epoch_started if within_epoch else 0.0,
            "since_validation": now - self.validated if within_epoch else 0.0,
            "seconds": now - self.started,
            "cpu_seconds": time.process_time() - self.cpu_started,
        }

    @property
    def is_best(self) -> bool:
        """True if the latest epoch has the best val accuracy so far; ties go to the earlier one."""
        return self.metrics["best_epoch"] == self.metrics["epochs"][-1]["epoch"]

    def on_fit_start(self, trainer: lightning.Trainer, model: Any) -> None:
        self.keeps_nothing = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        data: ReviewDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.on_run_start(data, sum(p.numel() for p in model.parameters() if p.requires_grad))
        layers = {type(module) for module in model.modules()} & {*FASTER}
        if layers and trainer.strategy.root_device.type == "cpu":
            log.info(
                "on a CPU model=%s computes the same with faster kernels; "
                "python -m imdb_lightning.bench layers shows by how much",
                FASTER[layers.pop()],
            )

    def on_run_start(self, data: ReviewDataModule, parameters: int) -> None:
        """Record and log that training starts. The reviews must be encoded."""
        padding = data.padding()
        self.train_tokens = int(data.splits["train"].lengths.sum())  # of an epoch
        self.metrics |= {"parameters": parameters, "data": {**data.metadata, "padding": padding}}
        if data.data["train_on_val"]:
            self.metrics["train_on_val"] = True
        self.run.write_metrics(self.metrics)
        self.has_started = True
        sizes = data.metadata["reviews"]
        label = " ".join(self.metrics[n] for n in ("pretrain", "model") if n in self.metrics)
        log.info(
            "%s on %s, seed %s: %s parameters; %s reviews; %.1f %% padding",
            *(label, self.metrics["dataset"], self.metrics["seed"], f"{parameters:,}"),
            ", ".join(f"{count:,} {split}" for split, count in sizes.items()),
            100 * padding,
        )
        if not self.keeps_nothing:
            log.info("%s", self.run.path)

    def on_train_epoch_start(self, trainer: lightning.Trainer, model: Any) -> None:
        now = time.perf_counter()
        self.epoch_started, self.validated = now - self.epoch_seconds, now - self.since_validation
        self.epoch_seconds = self.since_validation = 0.0

    def on_validation_start(self, trainer: lightning.Trainer, model: Any) -> None:
        if trainer.state.fn == "fit":
            self.train_seconds += time.perf_counter() - self.validated

    def on_validation_end(self, trainer: lightning.Trainer, model: Any) -> None:
        if trainer.state.fn != "fit":
            return
        self.validated = time.perf_counter()
        if trainer.val_check_interval != 1.0 or isinstance(trainer.val_check_interval, int):
            val = {f"val/{name}": value for name, value in model.metrics("val").items()}
            steps = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
            self.metrics.setdefault("validations", []).append(steps | val)

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: Any) -> None:
        val = {f"val/{name}": value for name, value in model.metrics("val").items()}
        epoch = {
            "epoch": trainer.current_epoch + 1,
            **{f"train/{name}": value for name, value in model.metrics("train").items()},
            **val,
            "seconds": time.perf_counter() - self.epoch_started,
        }
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        is_whole = batches == trainer.num_training_batches
        if not is_whole:
            epoch["batches"] = batches  # it was stopped within the epoch
        epochs = self.metrics["epochs"]
        epochs.append(epoch)
        best = max(epochs, key=lambda e: e["val/acc"])  # ties: the first, as in best.ckpt
        val["val/acc_best"] = best["val/acc"]
        self.metrics |= {
            "best_epoch": best["epoch"],
            **val,
            **(self._rate(trainer, len(epochs)) if is_whole else {}),
        }
        self.metrics["steps"] = trainer.global_step
        model.log("train/seconds", epoch["seconds"], logger=bool(trainer.loggers))
        self.run.write_metrics(self.metrics)
        self._log_epoch(epoch, trainer.max_epochs or 0)

    def _rate(self, trainer: lightning.Trainer, epochs: int) -> dict[str, float]:
        """Tokens per second of training; not with `limit_train_batches`."""
        if trainer.limit_train_batches != 1.0 or isinstance(trainer.limit_train_batches, int):
            return {}
        return {"tokens_per_second": self.train_tokens * epochs / self.train_seconds}

    def _log_epoch(self, epoch: Mapping[str, Any], epochs: int) -> None:
        prefix = "synthetic, " if self.metrics["dataset"] == "synthetic" else ""
        parts = [
            f"{split} loss {epoch[f'{split}/loss']:.4f} acc {epoch[f'{split}/acc']:.4f}"
            for split in ("train", "val")
        ]
        number = f"{epoch['epoch']:{len(str(epochs))}}/{epochs}"
        if "batches" in epoch:
            number += f" ({epoch['batches']} batches)"
        log.info(f"{prefix}epoch {number}  {'  '.join(parts)}  {epoch['seconds']:.1f} s")

    def on_train_end(self, trainer: lightning.Trainer, model: Any) -> None:
        reason = stopped_by(trainer)
        if reason and not self.keeps_nothing:
            log.info("stopped after %d steps by %s", trainer.global_step, reason)

    def add_resources(self, device: torch.device) -> None:
        """Seconds, CPU seconds of all threads, device, processor and memory, at the end.

        Of several processes the sum, and the largest memory.
        """
        own = time.process_time() - self.cpu_started, peak_memory()
        cpu_seconds, peaks = zip(*distributed.gather(own), strict=True)
        self.metrics |= {
            "seconds": time.perf_counter() - self.started,
            "cpu_seconds": sum(cpu_seconds),
            "device": device_name(device),
            "processor": processor_name(),
            "peak_memory": max(peaks) if None not in peaks else None,
        }
        if len(peaks) > 1:
            self.metrics["processes"] = len(peaks)

    def on_run_end(self) -> None:
        """Write "done", after everything else: it means that all other files are complete."""
        self.metrics["status"] = "done"
        self.run.write_metrics(self.metrics)

    def on_run_pruned(self, device: torch.device) -> dict[str, Any]:
        """Write "pruned": the trial of a search that was ended early, and is not tested."""
        self.add_resources(device)
        self.metrics["status"] = "pruned"
        self.run.write_metrics(self.metrics)
        log.info("pruned: its val accuracy is below the median of the trials before it")
        return self.metrics

    def on_run_failed(self, error: BaseException) -> None:
        """Record why the run ended early."""
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        self.metrics |= {
            "status": "interrupted" if interrupted else "failed",
            "error": f"{type(error).__name__}: {error}",
        }
        if distributed.is_peer_error(error):  # the run can be resumed
            self.metrics |= {"error": "another process of the run has ended", "killed": True}
        if interrupted:
            log.info("interrupted; resume=%s continues from here", self.run.path)
        try:  # fails too on a full disk, and the file from before is kept
            self.run.write_metrics(self.metrics)
        except OSError as unwritable:
            log.error("%s", unwritable)


def stopped_by(trainer: lightning.Trainer) -> str | None:
    """What has ended the training before its last epoch; None if nothing we know of has."""
    if not trainer.should_stop:
        return None
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return f"trainer.max_steps={trainer.max_steps}"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
            return "callbacks.early_stopping"
        left = callback.time_remaining() if isinstance(callback, Timer) else None
        if left is not None and left <= 0:
            return "trainer.max_time or callbacks.timer"
    return None
