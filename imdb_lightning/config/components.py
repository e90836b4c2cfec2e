"""Callbacks and loggers of Lightning that a configuration may name, and why others are refused."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf


CALLBACKS = {  # of lightning.pytorch.callbacks
    "early_stopping": "EarlyStopping",
    "learning_rate_monitor": "LearningRateMonitor",
    "model_summary": "ModelSummary",
    "rich_model_summary": "RichModelSummary",
    "rich_progress_bar": "RichProgressBar",
    "tqdm_progress_bar": "TQDMProgressBar",
    "device_stats_monitor": "DeviceStatsMonitor",
    "timer": "Timer",
    "gradient_accumulation_scheduler": "GradientAccumulationScheduler",
}
OBSERVERS = (  # of these, those that change no result
    *("learning_rate_monitor", "model_summary", "rich_model_summary", "rich_progress_bar"),
    *("tqdm_progress_bar", "device_stats_monitor"),
)
AVERAGE = "its average would not be resumed bit for bit; optim.ema_decay=0.999 averages the weights"
REFUSED_CALLBACKS = {
    "stochastic_weight_avg": AVERAGE,
    "stochastic_weight_averaging": AVERAGE,
    "weight_averaging": AVERAGE,
    "ema_weight_averaging": AVERAGE,
    "model_checkpoint": "a run keeps its best and its last checkpoint",
    "on_exception_checkpoint": "a run that is interrupted saves a checkpoint",
    "learning_rate_finder": "python -m imdb_lightning.tune lr finds a learning rate",
    "batch_size_finder": "the batch size is part of what is compared; set data.batch_size",
    "backbone_finetuning": "optim.pretrained_lr_scale trains pretrained weights more slowly",
    "base_prediction_writer": "a run writes predictions.parquet",
    "model_pruning": "a checkpoint would have other weights than the model",
}
LOGGERS = {  # of lightning.pytorch.loggers
    "tensorboard": "TensorBoardLogger",
    "csv": "CSVLogger",
    "wandb": "WandbLogger",
    "mlflow": "MLFlowLogger",
    "comet": "CometLogger",
    "lit": "LitLogger",
}
# What a component needs beside this project's own requirements.
PACKAGES = {
    "rich_progress_bar": ("rich", "rich"),
    "rich_model_summary": ("rich", "rich"),
    "device_stats_monitor": ("psutil", "psutil"),
    "wandb": ("wandb", "imdb-lightning[wandb]"),
    "mlflow": ("mlflow", "imdb-lightning[mlflow]"),
    "comet": ("comet_ml", "comet-ml"),
    "lit": ("litlogger", "litlogger"),
}
# Groups of which a run may have several options, as in logger=[tensorboard,csv].
SEVERAL = {"callbacks": CALLBACKS, "logger": LOGGERS}


def chosen(cfg: DictConfig, group: str) -> dict[str, dict[str, Any]]:
    """The arguments of each callback or logger that a configuration has, by its name."""
    found = OmegaConf.to_container(cfg.get(group) or OmegaConf.create(), resolve=True)
    assert isinstance(found, dict)
    return {str(name): dict(given or {}) for name, given in found.items()}
