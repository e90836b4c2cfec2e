"""The schema: each key of the configuration, its meaning, default and allowed values.

The table is the one description of a key. conf/ holds the same defaults, for Hydra to compose;
docs/configuration.md and --help are generated from the table, and tests compare all of them.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from .paths import absolute_path
from .rules import BOOL, ONE_DEVICE, STR, STRS, Rule, integer, number, one_of, or_null, share_of
from .trust import TRUSTED_TARGETS


class Key(NamedTuple):
    """One key. `default` is the value in conf/ without any override.

    `only` says in which configurations the key exists; empty means in every one. A key that is
    `added` is absent from conf/ and given as +KEY=VALUE.
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
    "optim": "adam",
    "trainer": "auto (the default), cpu, gpu",
    "callbacks": "default",
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
    Key("optim.name", one_of("adam"), "adam", "the optimizer"),
    Key("optim.lr", number(0, above=True), 1e-3, "learning rate"),
    Key("optim.weight_decay", number(0), 0.0, "L2 penalty, as torch.optim.Adam adds it"),
    Key(
        "optim.pretrained_lr_scale",
        number(0, above=True),
        1.0,
        "learning rate of pretrained weights, as a fraction of lr",
    ),
    Key(
        "optim.schedule",
        one_of("constant", "one_cycle"),
        "constant",
        "one_cycle: up over the first 30 % of the steps, then down to 0",
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
    # trainer
    Key("trainer.max_epochs", integer(1, 1_000_000), 10, "epochs"),
    Key(
        "trainer.accelerator",
        one_of("auto", "cpu", "gpu", "cuda", "mps"),
        "auto",
        "the device to train on",
    ),
    Key("trainer.devices", ONE_DEVICE, 1, "one device, or a list of one device number"),
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
    Key("trainer.deterministic", BOOL, True, "deterministic algorithms only"),
    Key("trainer.accumulate_grad_batches", integer(1), 1, "batches per optimizer step", added=True),
    Key("trainer.detect_anomaly", BOOL, False, "find the operation behind a NaN", added=True),
    Key(
        "trainer.gradient_clip_algorithm",
        one_of("norm", "value"),
        "norm",
        "clip the norm or each value",
        added=True,
    ),
    Key("trainer.limit_train_batches", BATCHES, 1.0, "part of train", added=True),
    Key("trainer.limit_val_batches", BATCHES, 1.0, "part of val", added=True),
    Key("trainer.limit_test_batches", BATCHES, 1.0, "part of test", added=True),
    # callbacks
    Key(
        "callbacks.early_stopping.patience",
        or_null(integer(1)),
        NULL,
        "stop after this many epochs without a better val/acc; null: never",
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

KEYS = {key.name: key for key in SCHEMA}
REQUIRED = [key.name for key in SCHEMA if not (key.only or key.added)]
ADDED_KEYS = [key.name for key in SCHEMA if key.added]
DERIVED_KEYS = ("model.vocab_size", "model.max_length")  # conf/ interpolates them from data
# How a run is executed: a run's canonical configuration omits these.
EXECUTION_KEYS = ("resume", "checkpoint.every_minutes", "checkpoint.every_steps")


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
    if not ("model.layer._target_" in values or "model.cell._target_" in values):
        lines.append("model has neither layer._target_ (PyTorch's) nor cell._target_")
    if "model.cell._target_" in values and "model.implementation" not in values:
        rule = KEYS["model.implementation"].rule
        lines.append(f"model.implementation is missing: it must be {rule.description}")
    return lines + check_combinations(values)


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
    if values.get("pretrained") is None and values.get("optim.pretrained_lr_scale") != 1:
        lines.append("optim.pretrained_lr_scale has no effect without pretrained=DIRECTORY")
    if values.get("optim.adversarial_epsilon") and values.get("trainer.precision") == "16-mixed":
        lines.append(
            "optim.adversarial_epsilon cannot be combined with trainer.precision=16-mixed; use "
            "bf16-mixed"
        )
    devices = values.get("trainer.devices")
    if values.get("trainer.accelerator") == "cpu" and isinstance(devices, list):
        lines.append(f"trainer.devices={devices}: a CPU has no device numbers; use 1")
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
