"""The schema: each key of the configuration, its meaning, default and allowed values.

The table is the one description of a key. conf/ holds the same defaults, for Hydra to compose;
docs/configuration.md and --help are generated from the table, and tests compare all of them.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from .components import REFUSED_CALLBACKS, SEVERAL
from .paths import absolute_path
from .rules import (
    BOOL,
    DEVICES,
    DURATION,
    FRACTIONS,
    STR,
    STRS,
    Rule,
    fraction,
    integer,
    number,
    one_of,
    or_null,
    share_of,
)
from .text import did_you_mean
from .trust import TRUSTED_TARGETS


class Key(NamedTuple):
    """One key. `default` is the value in conf/ without any override.

    `only` says in which configurations the key exists; empty means in every one. A key that is
    `added` is absent from conf/, and `default` is Lightning's.
    """

    name: str
    rule: Rule
    default: Any
    doc: str
    only: str = ""
    added: bool = False

    @property
    def group(self) -> str:
        """The part of the name before its first dot; empty for a key of the run itself."""
        return self.name.rpartition(".")[0].split(".")[0]


GROUPS = {
    "data": "imdb (the default) and synthetic",
    "model": "lstm (the default), rnn, gru: PyTorch's layers; custom_rnn, custom_lstm, custom_gru: "
    "cells of this project",
    "optim": "adam (the default), adamw, sgd, rmsprop, nadam, radam, adagrad: of torch.optim",
    "schedule": "constant (the default), one_cycle, cosine, linear_warmup, step, "
    "reduce_on_plateau: of the learning rate",
    "trainer": "auto (the default), cpu, gpu, ddp (two processes)",
    "callbacks": "default, early_stopping, learning_rate_monitor, model_summary, "
    "rich_progress_bar, device_stats_monitor, timer, gradient_accumulation_scheduler: of "
    "Lightning; several as [a,b]",
    "logger": "tensorboard (the default), csv, wandb, mlflow, comet, lit: of Lightning; "
    "several as [a,b]",
    "pretrain": "vectors, for python -m imdb_lightning.pretrain",
    "experiment": "smoke, the grids, report/..., recipes/..., pretrain/...",
}
NULL = None  # a default that is "off"
FRACTION = "fraction 0..1"
BATCHES = share_of("batches")

SCHEMA = (
    Key("seed", integer(0, 2**32 - 1), 0, "everything random derives from it"),
    Key(
        "test_checkpoint",
        one_of("last", "best"),
        "last",
        "the checkpoint to test: that of the last epoch, or of the best one on val",
    ),
    Key(
        "resume",
        or_null(STR),
        NULL,
        "resume this run directory; auto: the newest unfinished run of this configuration",
    ),
    Key(
        "pretrained",
        or_null(STR),
        NULL,
        "a pretraining's run directory: its vocabulary and vectors initialise the embedding",
    ),
    Key(
        "teacher",
        or_null(STRS),
        NULL,
        "finished runs whose predictions are soft labels for the unlabelled reviews",
    ),
    Key(
        "checkpoint.every_minutes",
        or_null(number(0, above=True)),
        1,
        "minutes between checkpoints within an epoch; null: none",
    ),
    Key(
        "checkpoint.every_steps",
        or_null(integer(1)),
        NULL,
        "batches between checkpoints within an epoch; null: none",
    ),
    # data
    Key("data.name", one_of("imdb", "synthetic"), "imdb", "the dataset"),
    Key(
        "data.path",
        or_null(STR),
        NULL,
        "parquet folder, aclImdb folder or aclImdb_v1.tar.gz; null: IMDB_DATA, data/imdb, the hub",
        "data=imdb",
    ),
    Key(
        "data.fallback",
        one_of("synthetic", None),
        "synthetic",
        "what to train on when there is neither a copy nor a network; null: stop",
        "data=imdb",
    ),
    Key("data.train_size", integer(2, 1_000_000), 20_000, "synthetic reviews to train on"),
    Key("data.test_size", integer(2, 1_000_000), 5_000, "synthetic reviews to test on"),
    Key(
        "data.distance", integer(0, 1_000_000), 10, "synthetic: tokens after the last decisive word"
    ),
    Key(
        "data.val_size",
        integer(2, 1_000_000),
        5_000,
        "reviews of the official train split that are held out for validation",
    ),
    Key(
        "data.train_on_val",
        BOOL,
        False,
        "train on the validation reviews too, once every hyperparameter is fixed",
    ),
    Key(
        "data.use_unlabelled",
        BOOL,
        False,
        "use the unlabelled reviews: for the vocabulary, a pretraining, or with a teacher",
    ),
    Key(
        "data.seed",
        integer(0, 2**32 - 1),
        0,
        "of the split and the synthetic corpus; independent of seed",
    ),
    Key(
        "data.vocab_size",
        integer(3, 10_000_000),
        20_000,
        "words, with the start and the out-of-vocabulary token, without padding",
    ),
    Key("data.max_length", integer(2, 1_000_000), 200, "tokens of a review, with the start token"),
    Key(
        "data.truncation",
        one_of("head", "tail", "head_tail"),
        "head",
        "the part of a longer review that is kept",
    ),
    Key("data.batch_size", integer(1, 1_000_000), 64, "reviews in a batch"),
    Key(
        "data.num_workers",
        integer(0, 1_000),
        0,
        "worker processes of the data loader; 0 is fastest",
    ),
    Key(
        "data.cache_dir",
        or_null(STR),
        "~/.cache/imdb_lightning",
        "where encoded reviews are cached (IMDB_LIGHTNING_CACHE); null: nowhere",
    ),
    # model
    Key("model.name", STR, "lstm", "the name of the model in tables, figures and directories"),
    Key("model.vocab_size", integer(3, 10_000_000), 20_000, "data.vocab_size"),
    Key("model.max_length", integer(2, 1_000_000), 200, "data.max_length"),
    Key("model.embedding_size", integer(1, 100_000), 64, "size of a word's embedding"),
    Key(
        "model.hidden_size",
        integer(1, 100_000),
        64,
        "units of a recurrent layer, in each direction",
    ),
    Key("model.num_layers", integer(1, 100), 1, "recurrent layers"),
    Key("model.bidirectional", BOOL, False, "read each review from its end as well"),
    Key(
        "model.dropout",
        number(0, 1),
        0.5,
        "dropout before the last Linear and between recurrent layers",
    ),
    Key(
        "model.embedding_dropout",
        number(0, 1),
        0.0,
        "variational dropout of the embedding's features, one mask for all tokens of a review",
    ),
    Key(
        "model.word_dropout",
        number(0, 1),
        0.0,
        "embedding dropout: words of the vocabulary",
    ),
    Key(
        "model.pooling",
        one_of("mean", "max", "last", "mean_max", "mean_padded"),
        "mean",
        "pooling over the hidden states; mean_padded, the report's, includes the padding",
    ),
    Key(
        "model.loss",
        one_of("cross_entropy", "nll", "nll_on_raw_logits"),
        "cross_entropy",
        "the loss; nll_on_raw_logits, the report's section 4.2, diverges",
    ),
    Key(
        "model.layer._target_",
        one_of(*sorted(TRUSTED_TARGETS["layer"])),
        "torch.nn.LSTM",
        "torch.nn.RNN, LSTM or GRU",
        "model=rnn, lstm, gru",
    ),
    Key(
        "model.cell._target_",
        STR,
        "imdb_lightning.model.cells.LSTMCell",
        "the class of the cell, of this project or of your own",
        "model=custom_...",
    ),
    Key(
        "model.cell.reset",
        one_of("before", "after"),
        "before",
        "the reset gate acts before the recurrent product (the report's equation 11) or after it",
        "model=custom_gru",
    ),
    Key(
        "model.implementation",
        one_of("fused", "loop"),
        "fused",
        "kernels that are generated from the step, or the step as a loop: the same results",
        "model=custom_...",
    ),
    # optim
    Key(
        "optim.name",
        one_of("adam", "adamw", "sgd", "rmsprop", "nadam", "radam", "adagrad"),
        "adam",
        "the optimizer",
    ),
    Key(
        "optim.lr",
        number(0, above=True),
        1e-3,
        "learning rate; 0.1 with sgd, 0.01 with adagrad, 0.002 with nadam",
    ),
    Key(
        "optim.weight_decay",
        number(0),
        0.0,
        "L2 penalty, as torch adds it; 0.01 with adamw, which decouples it",
    ),
    Key(
        "optim.betas",
        FRACTIONS,
        [0.9, 0.999],
        "decay of the averages of the gradient and its square",
        "optim=adam, adamw, nadam, radam",
    ),
    Key(
        "optim.eps",
        number(0),
        1e-8,
        "added to the denominator; 1e-10 with adagrad",
        "optim=adam, adamw, nadam, radam, rmsprop, adagrad",
    ),
    Key("optim.amsgrad", BOOL, False, "the AMSGrad variant", "optim=adam, adamw"),
    Key(
        "optim.momentum",
        number(0),
        0.9,
        "momentum; 0 with rmsprop",
        "optim=sgd, rmsprop",
    ),
    Key("optim.dampening", number(0), 0.0, "dampening of the momentum", "optim=sgd"),
    Key("optim.nesterov", BOOL, False, "Nesterov's momentum", "optim=sgd"),
    Key("optim.alpha", number(0, 1), 0.99, "decay of the average of the square", "optim=rmsprop"),
    Key("optim.centered", BOOL, False, "divide by the standard deviation", "optim=rmsprop"),
    Key("optim.momentum_decay", number(0), 4e-3, "decay of the momentum", "optim=nadam"),
    Key(
        "optim.decoupled_weight_decay",
        BOOL,
        False,
        "weight decay as AdamW's",
        "optim=nadam, radam",
    ),
    Key("optim.lr_decay", number(0), 0.0, "decay of the learning rate", "optim=adagrad"),
    Key(
        "optim.initial_accumulator_value",
        number(0),
        0.0,
        "where the sums of squares start",
        "optim=adagrad",
    ),
    Key(
        "optim.pretrained_lr_scale",
        number(0, above=True),
        1.0,
        "learning rate of pretrained weights, as a fraction of lr",
    ),
    Key(
        "optim.ema_decay",
        or_null(number(0, 1)),
        NULL,
        "decay of the moving average of the weights, such as 0.999; null: no average",
    ),
    Key(
        "optim.adversarial_epsilon",
        or_null(number(0, above=True)),
        NULL,
        "adversarial step size, relative to the norm of the embedded review, such as 0.004",
    ),
    # schedule
    Key(
        "schedule.name",
        one_of("constant", "one_cycle", "cosine", "linear_warmup", "step", "reduce_on_plateau"),
        "constant",
        "how the learning rate changes during the run",
    ),
    Key(
        "schedule.pct_start",
        number(0, 1, above=True),
        0.3,
        "fraction of the steps in which the rate rises; then it falls to 0",
        "schedule=one_cycle",
    ),
    Key(
        "schedule.div_factor",
        number(1),
        25,
        "the highest rate over the first one",
        "schedule=one_cycle",
    ),
    Key("schedule.eta_min", number(0), 0.0, "the rate at the last step", "schedule=cosine"),
    Key(
        "schedule.start_factor",
        fraction(),
        0.01,
        "the first rate as a fraction of optim.lr",
        "schedule=linear_warmup",
    ),
    Key(
        "schedule.total_iters",
        integer(1),
        300,
        "optimizer steps until the rate is optim.lr",
        "schedule=linear_warmup",
    ),
    Key("schedule.step_size", integer(1), 3, "epochs of one rate", "schedule=step"),
    Key("schedule.gamma", fraction(), 0.1, "the next rate over this one", "schedule=step"),
    Key(
        "schedule.factor",
        number(0, 1, above=True),
        0.1,
        "the next rate over this one",
        "schedule=reduce_on_plateau",
    ),
    Key(
        "schedule.patience",
        integer(0),
        1,
        "epochs without a better val/acc that change nothing yet",
        "schedule=reduce_on_plateau",
    ),
    Key(
        "schedule.threshold",
        number(0),
        1e-4,
        "what counts as better, relative to the best",
        "schedule=reduce_on_plateau",
    ),
    Key("schedule.min_lr", number(0), 0.0, "the lowest rate", "schedule=reduce_on_plateau"),
    # trainer
    Key("trainer.max_epochs", integer(1, 1_000_000), 10, "epochs"),
    Key(
        "trainer.accelerator",
        one_of("auto", "cpu", "gpu", "cuda", "mps"),
        "auto",
        "the device to train on",
    ),
    Key("trainer.devices", DEVICES, 1, "devices of each machine, a process each, or their numbers"),
    Key(
        "trainer.num_nodes",
        integer(1, 10_000),
        1,
        "machines; started by torchrun on each of them, or by srun",
        added=True,
    ),
    Key("trainer.strategy", one_of("auto", "ddp"), "auto", "ddp: several processes", added=True),
    Key(
        "trainer.precision",
        one_of("32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed"),
        "32-true",
        "numeric precision, in Lightning's notation",
    ),
    Key(
        "trainer.gradient_clip_val",
        or_null(number(0, above=True)),
        NULL,
        "largest gradient norm; null: no clipping",
    ),
    Key(
        "trainer.deterministic",
        one_of(True, False, "warn"),
        True,
        "deterministic algorithms only; warn: others too, with a warning",
    ),
    Key("trainer.accumulate_grad_batches", integer(1), 1, "batches per optimizer step", added=True),
    Key(
        "trainer.gradient_clip_algorithm",
        one_of("norm", "value"),
        "norm",
        "clip the norm or each value",
        added=True,
    ),
    Key("trainer.min_epochs", integer(1), NULL, "epochs before a run may stop early", added=True),
    Key("trainer.max_steps", integer(1), -1, "stop after this many optimizer steps", added=True),
    Key("trainer.min_steps", integer(1), NULL, "steps before a run may stop early", added=True),
    Key("trainer.max_time", DURATION, NULL, "stop after this time", added=True),
    Key(
        "trainer.val_check_interval",
        BATCHES,
        1.0,
        "validate this often within an epoch: every so many batches, or part of an epoch; "
        "best.ckpt is still that of an epoch's end",
        added=True,
    ),
    Key("trainer.limit_train_batches", BATCHES, 1.0, "part of train", added=True),
    Key("trainer.limit_val_batches", BATCHES, 1.0, "part of val", added=True),
    Key("trainer.limit_test_batches", BATCHES, 1.0, "part of test", added=True),
    Key(
        "trainer.overfit_batches",
        BATCHES,
        0.0,
        "train on the same few batches in each epoch, and validate on as many of val",
        added=True,
    ),
    Key(
        "trainer.fast_dev_run",
        Rule(lambda v: isinstance(v, int) and v >= 0, "true, or a number of batches, such as 2"),
        False,
        "a few batches of train, val and test, to see that all of it works; keeps nothing",
        added=True,
    ),
    Key("trainer.log_every_n_steps", integer(1), 50, "steps between scalars by step", added=True),
    Key(
        "trainer.profiler",
        one_of("simple", "advanced", "pytorch"),
        NULL,
        "write where the time goes into the run's directory, as fit-profile.txt",
        added=True,
    ),
    Key("trainer.detect_anomaly", BOOL, False, "find the operation behind a NaN", added=True),
    Key("trainer.benchmark", BOOL, NULL, "let cuDNN time its algorithms first", added=True),
    Key(
        "trainer.inference_mode",
        BOOL,
        True,
        "validate and test in inference_mode; false: in no_grad",
        added=True,
    ),
    Key("trainer.enable_progress_bar", BOOL, NULL, "not set: in a terminal", added=True),
    Key("trainer.enable_model_summary", BOOL, NULL, "not set: in a terminal", added=True),
    # callbacks
    Key(
        "callbacks.early_stopping.patience",
        or_null(integer(1)),
        NULL,
        "stop after this many epochs (validations) without a better val/acc; null: never",
        "callbacks=default, early_stopping",
    ),
    Key(
        "callbacks.early_stopping.monitor",
        one_of("val/acc", "val/loss", "train/acc", "train/loss"),
        "val/acc",
        "what must get better",
        added=True,
    ),
    Key(
        "callbacks.learning_rate_monitor.logging_interval",
        one_of("step", "epoch", None),
        "step",
        "when the learning rate is logged",
        "callbacks=learning_rate_monitor",
    ),
    Key(
        "callbacks.model_summary.max_depth",
        integer(-1),
        2,
        "levels of modules that are listed; -1: all",
        "callbacks=model_summary",
    ),
    Key(
        "callbacks.device_stats_monitor.cpu_stats",
        or_null(BOOL),
        NULL,
        "the processor's load too; null: on a CPU",
        "callbacks=device_stats_monitor",
    ),
    Key(
        "callbacks.timer.duration",
        DURATION,
        "00:01:00:00",
        "stop after this time",
        "callbacks=timer",
    ),
    Key(
        "callbacks.gradient_accumulation_scheduler.scheduling",
        Rule(lambda v: isinstance(v, dict), "batches a step by epoch from 0, such as {0:1,4:2}"),
        NULL,
        "batches per optimizer step from each epoch on, counted from 0",
        added=True,
    ),
    # logger
    Key(
        "logger.wandb.project",
        STR,
        "imdb_lightning",
        "the project on the server",
        "logger=wandb",
    ),
    Key(
        "logger.wandb.offline",
        BOOL,
        True,
        "write into the run's directory, for `wandb sync`",
        "logger=wandb",
    ),
    Key(
        "logger.mlflow.experiment_name",
        STR,
        "imdb_lightning",
        "the experiment of the runs",
        "logger=mlflow",
    ),
    Key(
        "logger.mlflow.tracking_uri",
        STR,
        "outputs/mlruns",
        "a folder, or a server such as http://127.0.0.1:5000",
        "logger=mlflow",
    ),
    # pretrain
    Key(
        "pretrain.name", one_of("vectors"), "vectors", "skip-gram word vectors", "pretrain=vectors"
    ),
    Key("pretrain.window", integer(1), 5, "words before and after", "pretrain=vectors"),
    Key(
        "pretrain.negative_samples",
        integer(1),
        5,
        "words drawn against each pair",
        "pretrain=vectors",
    ),
)

# The other arguments of lightning.Trainer, and why they are refused.
REFUSED_ARGUMENTS = {
    "use_distributed_sampler": "each process has its rows of each batch, whatever their number",
    "logger": "choose loggers as in logger=csv or logger=[tensorboard,csv]",
    "callbacks": "choose callbacks as in callbacks=early_stopping",
    "check_val_every_n_epoch": "each epoch is recorded with its validation",
    "num_sanity_val_steps": "the data are checked before a run starts; trainer.fast_dev_run=true "
    "tries all of it",
    "limit_predict_batches": "python -m imdb_lightning.predict predicts",
    "enable_checkpointing": "a run keeps its best and its last checkpoint; the keys of checkpoint "
    "say how often",
    "barebones": "a run is recorded; python -m imdb_lightning.bench step measures a step",
    "plugins": "trainer.precision chooses the precision, and checkpoints are this project's own",
    "sync_batchnorm": "there is no batch normalization",
    "reload_dataloaders_every_n_epochs": "the order of reviews is a function of seed and epoch",
    "default_root_dir": "hydra.run.dir names the run's directory",
    "enable_autolog_hparams": "the run's configuration is recorded as it is",
    "model_registry": "there is no registry; a run is a directory",
}
KEYS = {key.name: key for key in SCHEMA}
REQUIRED = [key.name for key in SCHEMA if not (key.only or key.added)]
ADDED_KEYS = [key.name for key in SCHEMA if key.added]
DERIVED_KEYS = ("model.vocab_size", "model.max_length")  # conf/ interpolates them from data
# How a run is executed: a run's canonical configuration omits these.
EXECUTION_KEYS = (
    *("resume", "checkpoint.every_minutes", "checkpoint.every_steps"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary"),
    *("trainer.log_every_n_steps", "trainer.profiler"),
)


def devices_of(cfg: DictConfig) -> int:
    """The processes of a run on each machine."""
    devices = cfg.trainer.get("devices", 1)
    return devices if isinstance(devices, int) else len(devices)


def check_values(cfg: DictConfig) -> list[str]:
    """One line for each value of a composed configuration that is missing or not allowed."""
    values = flatten(OmegaConf.to_container(cfg, resolve=True))
    lines = [
        f"{key} is missing: it must be {KEYS[key].rule.description}"
        for key in REQUIRED
        if key not in values
    ]
    lines += [
        line
        for key, value in values.items()
        if key not in DERIVED_KEYS and (line := check_value(key, value))
    ]
    lines += [
        f"{key}: {KEYS[key.rpartition('.')[0]].rule.description}"
        for key in values
        if key.startswith("trainer.") and key.count(".") > 1 and key.rpartition(".")[0] in KEYS
    ]
    lines += check_components(values)
    if not ("model.layer._target_" in values or "model.cell._target_" in values):
        lines.append("model has neither layer._target_ (PyTorch's) nor cell._target_")
    if "model.cell._target_" in values and "model.implementation" not in values:
        rule = KEYS["model.implementation"].rule
        lines.append(f"model.implementation is missing: it must be {rule.description}")
    return lines + check_combinations(values)


def check_components(values: dict[str, Any]) -> list[str]:
    """A line for each callback or logger that is neither Lightning's nor a class of the user's."""
    lines = []
    for group, known in SEVERAL.items():
        names = {key.split(".")[1] for key in values if key.startswith(f"{group}.")}
        for name in sorted(names - set(known)):
            if f"{group}.{name}._target_" in values and group == "callbacks":
                continue
            reason = REFUSED_CALLBACKS.get(name) if group == "callbacks" else None
            lines.append(
                f"{group}.{name}: {reason}"
                if reason
                else f"{group}.{name}: not one of Lightning's ({', '.join(known)})"
                + f", and callbacks.{name}._target_=MODULE.CLASS names no class"
                * (group == "callbacks")
                + did_you_mean(name, known)
            )
    return lines


def check_value(key: str, value: Any) -> str:
    """What is wrong with one value; empty if nothing is, or the key is a cell's own option."""
    if key not in KEYS or KEYS[key].rule.accepts(value):
        return ""
    rule = KEYS[key].rule
    shown = "null" if value is None else value
    return f"{key}={shown}: must be {rule.description}{rule.hint(value)}"


def check_combinations(values: dict[str, Any]) -> list[str]:
    """A line for each pair of values that exclude one another."""
    lines = []
    distance, length = values.get("data.distance"), values.get("data.max_length")
    if values.get("data.name") == "synthetic" and isinstance(distance, int):
        if isinstance(length, int) and distance + 40 >= length > 0:
            lines.append(f"data.distance={distance}: needs data.max_length >= {distance + 41}")
    is_pretraining = "pretrain.name" in values
    teacher = values.get("teacher")
    if is_pretraining:
        for key in ("pretrained", "teacher"):
            if values.get(key) is not None:
                lines.append(f"{key} cannot be combined with pretrain=vectors; remove it")
    elif teacher is not None:
        if not values.get("data.use_unlabelled"):
            lines.append("teacher labels the unlabelled reviews: set data.use_unlabelled=true")
        if values.get("model.loss") != "cross_entropy":
            lines.append("teacher gives soft labels, which only model.loss=cross_entropy supports")
    if values.get("optim.nesterov") and not (
        values.get("optim.momentum") and values.get("optim.dampening") == 0
    ):
        lines.append("optim.nesterov=true needs optim.momentum > 0 and optim.dampening=0")
    if values.get("schedule.name") == "reduce_on_plateau" and values.get("data.train_on_val"):
        lines.append(
            "data.train_on_val=true trains on the validation split, so schedule=reduce_on_plateau "
            "has nothing to decide by; choose another schedule"
        )
    if values.get("pretrained") is None and values.get("optim.pretrained_lr_scale") != 1:
        lines.append("optim.pretrained_lr_scale has no effect without pretrained=DIRECTORY")
    if values.get("optim.adversarial_epsilon") and values.get("trainer.precision") == "16-mixed":
        lines.append(
            "optim.adversarial_epsilon cannot be combined with trainer.precision=16-mixed; use "
            "bf16-mixed"
        )
    if values.get("trainer.gradient_clip_algorithm") and not values.get(
        "trainer.gradient_clip_val"
    ):
        lines.append("trainer.gradient_clip_algorithm needs trainer.gradient_clip_val")
    least, most = values.get("trainer.min_epochs"), values.get("trainer.max_epochs")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        lines.append(f"trainer.min_epochs={least}: is more than trainer.max_epochs={most}")
    if any(key.startswith("callbacks.gradient_accumulation_scheduler.") for key in values):
        schedule = values.get("schedule.name")
        if values.get("trainer.accumulate_grad_batches", 1) != 1:
            lines.append(
                "trainer.accumulate_grad_batches cannot be combined with "
                "callbacks=gradient_accumulation_scheduler"
            )
        if schedule in ("one_cycle", "cosine"):
            lines.append(
                f"schedule={schedule} needs the number of steps, which "
                "callbacks=gradient_accumulation_scheduler changes; choose another schedule"
            )
    stopping = [key for key in values if key.startswith("callbacks.early_stopping.")]
    if len(stopping) > 1 and values.get("callbacks.early_stopping.patience") is None:
        lines.append(
            "callbacks.early_stopping needs a patience: callbacks.early_stopping.patience=3"
        )
    for name in ("tensorboard", "csv"):
        for key in ("save_dir", "name", "version"):
            if f"logger.{name}.{key}" in values:
                lines.append(f"logger.{name}.{key}: it writes into the run's directory; omit it")
    if values.get("trainer.benchmark") and values.get("trainer.deterministic") is True:
        lines.append("trainer.benchmark=true needs trainer.deterministic=false")
    devices = values.get("trainer.devices")
    if values.get("trainer.accelerator") == "cpu" and isinstance(devices, list) and devices:
        lines.append(f"trainer.devices={devices}: a CPU has no device numbers; use {len(devices)}")
    count = len(devices) if isinstance(devices, list) else devices
    nodes = values.get("trainer.num_nodes", 1)
    if isinstance(count, int) and isinstance(nodes, int) and count * nodes > 1:
        if values.get("trainer.precision") == "16-mixed":
            lines.append("trainer.precision=16-mixed needs one process; bf16-mixed does not")
        if is_pretraining:
            lines.append("pretrain=vectors is one process: trainer.devices=1")
    if values.get("data.train_on_val") and not is_pretraining:
        patience = values.get("callbacks.early_stopping.patience")
        if values.get("test_checkpoint") != "last" or patience is not None:
            lines.append(
                "data.train_on_val=true trains on the validation split, so nothing may be selected "
                "on it: set test_checkpoint=last and callbacks.early_stopping.patience=null"
            )
    path = values.get("data.path")
    if values.get("data.name") == "imdb" and isinstance(path, str):
        if not os.path.exists(absolute_path(path)):
            lines.append(
                f"data.path={path}: no such file or folder; give a parquet folder, an aclImdb "
                "folder or aclImdb_v1.tar.gz (the environment variable IMDB_DATA sets data.path)"
            )
    return lines


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """{"model.hidden_size": 64, ...}: the values of nested dictionaries by their path."""
    values: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, dict):
            values |= flatten(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values
