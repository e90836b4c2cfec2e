"""Inference: a trained model, loaded from a run or an export. Nothing in its files is trusted.

Weights are loaded as plain tensors. The configuration is data: it is checked, and of the classes
that it names only PyTorch's layers and this project's cells are instantiated.
"""

from __future__ import annotations

import copy
import inspect
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from .config.schema import KEYS, check_value
from .config.text import one_line
from .config.trust import CELL_OPTIONS, TRUSTED_TARGETS, targets
from .data.batches import EncodedReviews, chunks
from .data.labels import LABELS
from .data.text import Tokenizer
from .model.network import Network, logit_difference
from .runs import reader
from .runs.checkpoint import CorruptCheckpointError, check_weights, read_state_dict
from .runs.run import Run, check_metrics


WINDOW = 16  # batches that are sorted by length together
BATCH = 256  # reviews: faster than the 64 of training, for the same answers
DATA_KEYS = ("vocab_size", "max_length", "truncation")  # of the group data, that a model needs
# Of the group model: the constructor's arguments.
NETWORK_KEYS = tuple(name for name in inspect.signature(Network).parameters if name != "make_layer")


class LoadError(Exception):
    """A model that cannot be loaded, and why, in one line."""


class Prediction(NamedTuple):
    """The prediction for one review."""

    label: str  # "negative" or "positive"
    probability: float  # of that label, 0.5..1
    logit: float  # positive - negative, before the temperature


class Predictor:
    """A network with its tokenizer, its configuration, and the temperature of its probabilities."""

    def __init__(
        self,
        path: Path,
        network: Network,
        tokenizer_file: Path,
        config: dict[str, Any],
        metrics: dict[str, Any],
    ) -> None:
        self.path = path
        self.tokenizer_file = tokenizer_file
        self.network = network.eval()
        self.tokenizer = _load_tokenizer(tokenizer_file, config, len(network.embedding.weight))
        self.config = config
        self.metrics = metrics
        self.temperature = float(metrics.get("temperature") or 1.0)

    def predict(self, texts: Sequence[str], batch_size: int = BATCH) -> list[Prediction]:
        """One prediction for each review, in their order."""
        return list(self.stream(texts, batch_size))

    def stream(
        self, texts: Iterable[str], batch_size: int = BATCH, window: int = WINDOW * BATCH
    ) -> Iterator[Prediction]:
        """The same, `window` reviews at a time: memory does not grow with their number."""
        if isinstance(texts, str):
            raise TypeError("texts must be a list of strings, not one string")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be an integer >= 1")
        texts = iter(texts)
        while batch := list(islice(texts, window)):
            yield from map(self.prediction, self.logits(batch, batch_size).tolist())

    @cached_property
    def network32(self) -> Network:
        """The network in float32, for what NumPy, ONNX and integrated gradients need."""
        weight = self.network.embedding.weight
        return (
            self.network if weight.dtype == torch.float32 else copy.deepcopy(self.network).float()
        )

    def prediction(self, logit: float) -> Prediction:
        confidence = 1 / (1 + math.exp(-min(abs(logit) / self.temperature, 700)))
        return Prediction(LABELS[int(logit > 0)], confidence, logit)

    @property
    def data(self) -> dict[str, Any]:
        """The group data of the run's configuration."""
        return self.config["data"]

    @torch.inference_mode()
    def logits(self, texts: Sequence[str], batch_size: int = BATCH) -> np.ndarray:
        """Logit differences (N,), positive - negative."""
        reviews = self.encode(texts)
        logit_N = np.empty(len(texts), np.float32)
        for rows in chunks(np.argsort(reviews.lengths, kind="stable"), batch_size):
            tokens_BT, lengths_B, *_ = reviews.__getitems__(rows.tolist())
            logit_N[rows] = logit_difference(self.network(tokens_BT, lengths_B)).float().numpy()
        return logit_N

    def encode(self, texts: Sequence[str]) -> EncodedReviews:
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{number}] is {text!r}, not a string")
        # Lone surrogates, as from a command line that is not UTF-8, cannot be encoded.
        encodable = [text.encode("utf-8", "replace").decode() for text in texts]
        tokens, offsets = self.tokenizer.encode(encodable)
        no_labels = np.zeros(len(texts), np.int64)
        return EncodedReviews(tokens, offsets, no_labels, np.arange(len(texts)))


def load(path: str | Path, trust: bool = False) -> Predictor:
    """The model of a run directory, of one of its checkpoints, or of an exported folder.

    For a run directory it is the checkpoint that the run tested. `trust` allows a third-party cell
    to be instantiated, which runs its code. Raises LoadError.
    """
    if "://" in str(path):
        raise LoadError(f"{path}: a URL; give a directory of this machine")
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise LoadError(f"{path}: no such run, checkpoint or exported folder")
    if path.is_file():
        run, checkpoint = path.parent.parent, path
    elif (path / "config.json").is_file():
        return _load_exported(path, trust)
    else:
        run, checkpoint = path, None
    config = _load_config(run / ".hydra" / "config.yaml", trust)
    metrics = _load_metrics(run)
    if checkpoint is None:
        which = metrics.get("test_checkpoint", "last")
        checkpoint = run / "checkpoints" / ("best.ckpt" if which == "best" else "last.ckpt")
    if not checkpoint.is_file():
        raise LoadError(f"{checkpoint}: no such checkpoint; did the run finish an epoch?")
    try:
        weights = read_state_dict(checkpoint)
    except CorruptCheckpointError as error:
        raise LoadError(str(error)) from None
    network = build(config, weights, checkpoint)
    return Predictor(path, network, run / "tokenizer.json", config, metrics)


def _load_exported(folder: Path, trust: bool) -> Predictor:
    config = _load_config(folder / "config.json", trust)
    metrics = config.pop("metrics", {})
    file = folder / "model.safetensors"
    if not file.is_file():
        raise LoadError(f"{folder}: no model.safetensors; ONNX and pt2 are for other programs")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        reader.check_regular(file)
        weights = load_file(file)
        check_weights(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise LoadError(f"{file}: {one_line(error)}") from None
    network = build(config, weights, file)
    return Predictor(folder, network, folder / "tokenizer.json", config, metrics)


def build(config: Mapping[str, Any], weights: Mapping[str, Any], source: Path) -> Network:
    """The network with these weights; initial weights are never allocated. Raises LoadError."""
    try:
        with torch.device("meta"):
            network = Network.from_config(config["model"])
        network.load_state_dict(dict(weights), assign=True)
    except (RuntimeError, ImportError, AttributeError, ValueError, TypeError) as error:
        what = f"the weights do not fit the configuration: {one_line(error)}"
        raise LoadError(f"{source}: {what}") from None
    return network


def _load_metrics(run: Path) -> dict[str, Any]:
    try:
        return Run(run).metrics
    except OSError:
        return {}
    except ValueError as error:
        raise LoadError(f"{run / 'metrics.json'}: corrupt: {one_line(error)}") from None


def _load_tokenizer(file: Path, config: Mapping[str, Any], rows: int) -> Tokenizer:
    data = config["data"]
    try:
        # A word has a dozen bytes; no vocabulary is larger than the configuration says.
        content = reader.read_text(file, reader.MIB + 64 * data["vocab_size"])
        tokenizer = Tokenizer.from_json(content, data["max_length"], data["truncation"])
    except OSError:
        raise LoadError(f"{file}: no such file; did the run start training?") from None
    except ValueError as error:
        raise LoadError(f"{file}: {one_line(error)}") from None
    words = tokenizer.tokenizer.get_vocab_size()
    if words > rows:
        raise LoadError(f"{file}: {words} words, but the embedding has {rows}")
    return tokenizer


# The configuration is data


def _load_config(file: Path, trust: bool) -> dict[str, Any]:
    """The groups "model" and "data", as far as a model needs them, and "metrics" of an export."""
    try:
        is_json = file.suffix == ".json"
        raw = reader.read_json(file) if is_json else yaml.safe_load(reader.read_yaml(file))
    except OSError:
        raise LoadError(f"{file.parent}: neither a run directory nor an exported folder") from None
    except (ValueError, yaml.YAMLError) as error:
        raise LoadError(f"{file}: corrupt: {one_line(error)}") from None
    try:
        return validated(raw, trust)
    except ValueError as error:
        raise LoadError(f"{file}: {error}") from None


def validated(raw: Any, trust: bool) -> dict[str, Any]:
    """A configuration in which every class is trusted and every value allowed.

    Raises ValueError.
    """
    if not (isinstance(raw, dict) and isinstance(raw.get("model"), dict)):
        raise ValueError("not a run's configuration")
    if "pretrain" in raw:
        raise ValueError("a pretraining, which predicts nothing")
    data = raw.get("data")
    if not isinstance(data, dict):
        raise ValueError("no group data")
    model = dict(raw["model"])
    kind = "cell" if "cell" in model else "layer"
    part = model.get(kind)
    if not isinstance(part, dict) or not isinstance(part.get("_target_"), str):
        raise ValueError(f"model.{kind} has no _target_")
    target = part["_target_"]
    is_foreign = target not in TRUSTED_TARGETS[kind]
    if is_foreign and not (trust and kind == "cell"):
        hint = "; add --trust to run its code" if kind == "cell" else ""
        raise ValueError(f"model.{kind}._target_={target} is not part of imdb_lightning{hint}")
    if "layer" in model and "cell" in model:
        raise ValueError("model has a layer and a cell")
    for path, _ in targets({"model": raw["model"], "data": data}):  # nothing else is used
        if path != f"model.{kind}._target_":
            raise ValueError(f"{path}: no class is expected there")
    for name in ("vocab_size", "max_length"):
        if model.get(name) == f"${{data.{name}}}":
            model[name] = data.get(name)
    allowed = CELL_OPTIONS.get(target, set()) if kind == "cell" else set()
    unknown = set(part) - {"_target_"} - allowed
    if unknown and not is_foreign:
        raise ValueError(f"model.{kind} has {', '.join(sorted(map(str, unknown)))}")
    _check_values(model, kind, data)
    for key in data:
        if f"data.{key}" not in KEYS:
            raise ValueError(f"data.{key}: no such key")
        wrong = check_value(f"data.{key}", data[key]) if "${" not in str(data[key]) else ""
        if wrong:
            raise ValueError(wrong)
    kept = {"model": model, "data": without_interpolations(data)}
    if "metrics" not in raw:
        return kept
    check_metrics(raw["metrics"])
    return {**kept, "metrics": raw["metrics"]}


def without_interpolations(data: Mapping[str, Any]) -> dict[str, Any]:
    """Null instead of what would be looked up elsewhere, such as in the environment."""
    return {
        key: None if isinstance(value, str) and "${" in value else value
        for key, value in data.items()
    }


def _check_values(model: Mapping[str, Any], kind: str, data: Mapping[str, Any]) -> None:
    """Raises ValueError for the first unknown key or value that is not allowed."""
    of_cells = ("implementation",) if kind == "cell" else ()
    for key in model:
        if key not in ("name", "loss", kind, *NETWORK_KEYS, *of_cells):
            raise ValueError(f"model.{key}: no such key")
    values = {f"model.{name}": model.get(name) for name in (*NETWORK_KEYS, *of_cells)}
    values |= {f"data.{name}": data.get(name) for name in DATA_KEYS}
    for key, value in values.items():
        wrong = check_value(key, value)
        if wrong:
            raise ValueError(wrong)
