"""A trained model, read back from what a run or an export left. Nothing in it is trusted.

Weights are opened as plain tensors, and the configuration is data: it is checked, and of what it
names only PyTorch's layers and this project's cells are ever made.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from . import config, durable
from .data.batches import EncodedReviews, split
from .data.text import Tokenizer
from .model.network import Network


WINDOW = 16  # batches that are sorted by length together
BATCH = 256  # reviews: faster than the 64 of training, for the same answers
OURS = {
    "layer": {f"torch.nn.{name}" for name in ("RNN", "LSTM", "GRU")},
    "cell": {f"imdb_lightning.model.cells.{name}Cell" for name in ("RNN", "LSTM", "GRU")},
}
CELL_OPTIONS = {"imdb_lightning.model.cells.GRUCell": {"reset"}}
FROM_DATA = ("vocab_size", "max_length", "truncation")
LABELS = ("negative", "positive")


class LoadError(Exception):
    """What cannot be loaded, and why, in one line."""


class Prediction(NamedTuple):
    """Of one review."""

    label: str  # "negative" or "positive"
    probability: float  # of that label, 0.5..1
    logit: float  # positive - negative, before the temperature


class Trained:
    """A network with its tokenizer, its configuration, and the temperature of its probabilities."""

    def __init__(
        self,
        path: Path,
        network: Network,
        tokenizer_file: Path,
        options: dict[str, Any],
        metrics: dict[str, Any],
    ) -> None:
        self.path = path
        self.tokenizer_file = tokenizer_file
        self.network = network.eval()
        self.tokenizer = _tokenizer(tokenizer_file, options)
        self.config = options
        self.metrics = metrics
        self.temperature = float(metrics.get("temperature") or 1.0)

    def predict(self, texts: Sequence[str], batch_size: int = BATCH) -> list[Prediction]:
        """One prediction for each review, in their order."""
        return list(self.stream(texts, batch_size))

    def stream(
        self, texts: Iterable[str], batch_size: int = BATCH, window: int = WINDOW * BATCH
    ) -> Iterator[Prediction]:
        """The same, `window` reviews at a time: memory does not grow with their number."""
        texts = iter(texts)
        while some := list(islice(texts, window)):
            yield from map(self.prediction, self.logits(some, batch_size).tolist())

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
        logits_N = np.empty(len(texts), np.float32)
        for rows in split(np.argsort(reviews.lengths, kind="stable"), batch_size):
            tokens_BT, lengths_B, *_ = reviews.__getitems__(rows.tolist())
            logits_B2 = self.network(tokens_BT, lengths_B)
            logits_N[rows] = (logits_B2[:, 1] - logits_B2[:, 0]).float().numpy()
        return logits_N

    def encode(self, texts: Sequence[str]) -> EncodedReviews:
        # Half a character, as from a command line that is no UTF-8, has no encoding.
        whole = [text.encode("utf-8", "replace").decode() for text in texts]
        tokens, offsets = self.tokenizer.encode(whole)
        nothing = np.zeros(len(texts), np.int64)
        return EncodedReviews(tokens, offsets, nothing, np.arange(len(texts)))


def load(path: str | Path, trust: bool = False) -> Trained:
    """The model of a run directory, of one of its checkpoints, or of an exported folder.

    A run's own model is that of the checkpoint that it tested. `trust` lets a cell of somebody
    else's code be made. Raises LoadError.
    """
    if "://" in str(path):
        raise LoadError(f"{path}: an address; give a directory of this machine")
    path = Path(path).expanduser()
    if not path.exists():
        raise LoadError(f"{path}: no such run, checkpoint or exported folder")
    if path.is_file():
        run, checkpoint = path.parent.parent, path
    elif (path / "config.json").is_file():
        return _load_exported(path, trust)
    else:
        run, checkpoint = path, None
    options = _options(run / ".hydra" / "config.yaml", trust)
    metrics = _metrics(run / "metrics.json")
    if checkpoint is None:
        which = metrics.get("test_checkpoint", "last")
        checkpoint = run / "checkpoints" / ("best.ckpt" if which == "best" else "last.ckpt")
    network = build(options, _weights(checkpoint), checkpoint)
    return Trained(path, network, run / "tokenizer.json", options, metrics)


def _load_exported(folder: Path, trust: bool) -> Trained:
    options = _options(folder / "config.json", trust)
    metrics = options.pop("metrics", {})
    if not (folder / "model.safetensors").is_file():
        raise LoadError(f"{folder}: no model.safetensors; ONNX and pt2 are for other programs")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{folder / 'model.safetensors'}: {config.one_line(error)}") from None
    network = build(options, weights, folder / "model.safetensors")
    return Trained(folder, network, folder / "tokenizer.json", options, metrics)


def build(options: Mapping[str, Any], weights: Mapping[str, Any], source: Path) -> Network:
    """The network with these weights; what is not needed is never allocated."""
    try:
        with torch.device("meta"):
            network = Network.from_config(options["model"])
        network.load_state_dict(dict(weights), assign=True)
    except (RuntimeError, ImportError, AttributeError, ValueError, TypeError) as error:
        what = f"the weights do not fit the configuration: {config.one_line(error)}"
        raise LoadError(f"{source}: {what}") from None
    return network


def _weights(checkpoint: Path) -> Mapping[str, Any]:
    """The state_dict, as plain tensors."""
    if not checkpoint.is_file():
        raise LoadError(f"{checkpoint}: no such checkpoint; did the run finish an epoch?")
    try:
        archive = checkpoint.read_bytes()
        if durable.is_sealed(archive) and not durable.is_intact(archive):
            raise ValueError("its checksum is another one")
        content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
        weights = content["state_dict"]
        if not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
            raise TypeError("its state_dict holds more than tensors")
        return weights
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        what = "damaged, or it holds more than tensors, which is never opened"
        raise LoadError(f"{checkpoint}: {what} ({config.one_line(error)[:120]})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{checkpoint}: not a run's checkpoint: {error}") from None


def _metrics(file: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(file.read_text("utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise LoadError(f"{file}: damaged: {config.one_line(error)}") from None
    return metrics if isinstance(metrics, dict) else {}


def _tokenizer(file: Path, options: Mapping[str, Any]) -> Tokenizer:
    data = options["data"]
    try:
        return Tokenizer.load(file, data["max_length"], data["truncation"])
    except OSError:
        raise LoadError(f"{file}: no such file; the run did not get as far") from None
    except ValueError as error:
        raise LoadError(f"{file}: {config.one_line(error)}") from None


# The configuration is data


def _options(file: Path, trust: bool) -> dict[str, Any]:
    """The groups "model" and "data", as far as a model needs them, and "metrics" of an export."""
    try:
        text = file.read_text("utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise LoadError(f"{file}: it has aliases, which a run's configuration never has")
        raw = yaml.safe_load(text)
    except OSError:
        raise LoadError(f"{file.parent}: neither a run directory nor an exported folder") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise LoadError(f"{file}: damaged: {config.one_line(error)}") from None
    try:
        return checked(raw, trust)
    except ValueError as error:
        raise LoadError(f"{file}: {error}") from None


def checked(raw: Any, trust: bool) -> dict[str, Any]:
    """A configuration of which nothing is made that is not ours. Raises ValueError."""
    if not (isinstance(raw, dict) and isinstance(raw.get("model"), dict)):
        raise ValueError("no configuration of a run")
    if "pretrain" in raw:
        raise ValueError("a pretraining's run, which tells nothing of a review")
    data = raw.get("data")
    if not isinstance(data, dict):
        raise ValueError("no group data")
    model = dict(raw["model"])
    kind = "cell" if "cell" in model else "layer"
    part = model.get(kind)
    if not isinstance(part, dict) or not isinstance(part.get("_target_"), str):
        raise ValueError(f"model.{kind} has no _target_")
    target = part["_target_"]
    foreign = target not in OURS[kind]
    if foreign and not (trust and kind == "cell"):
        hint = "; --trust runs it" if kind == "cell" else ""
        raise ValueError(f"model.{kind}._target_={target} is code that is not ours{hint}")
    if "layer" in model and "cell" in model:
        raise ValueError("model has a layer and a cell")
    for path in _targets(raw):
        if path != f"model.{kind}._target_":
            raise ValueError(f"{path}: nothing is made there")
    for name in ("vocab_size", "max_length"):
        if model.get(name) == f"${{data.{name}}}":
            model[name] = data.get(name)
    allowed = CELL_OPTIONS.get(target, set()) if kind == "cell" else set()
    unknown = set(part) - {"_target_"} - allowed
    if unknown and not foreign:
        raise ValueError(f"model.{kind} has {', '.join(sorted(map(str, unknown)))}")
    _check_values(model, kind, {name: data.get(name) for name in FROM_DATA})
    kept = {"model": model, "data": plain(data)}
    return {**kept, "metrics": raw["metrics"]} if isinstance(raw.get("metrics"), dict) else kept


def plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Without what would be looked up elsewhere, such as the environment."""
    return {
        key: None if isinstance(value, str) and "${" in value else value
        for key, value in data.items()
    }


def _targets(node: Any, path: str = "") -> Iterator[str]:
    """Where something would be made, and where a text would be looked up elsewhere."""
    if isinstance(node, dict):
        for key, value in node.items():
            here = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield here
            yield from _targets(value, here)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _targets(value, f"{path}[{number}]")


def _check_values(model: Mapping[str, Any], kind: str, data: Mapping[str, Any]) -> None:
    own = {"name", "loss", kind, *OPTIONS, *(("implementation",) if kind == "cell" else ())}
    wrong = [f"model.{key}: no such key" for key in model if key not in own]
    later = {name: config.LATER.get(f"model.{name}") for name in OPTIONS}
    values = {f"model.{name}": model.get(name, later[name]) for name in OPTIONS}
    values |= {f"data.{name}": value for name, value in data.items()}
    if kind == "cell":
        values["model.implementation"] = model.get("implementation")
    for key, value in values.items():
        rule = config.RULES[
            key.replace("model.vocab", "data.vocab").replace("model.max", "data.max")
        ]
        if not rule[0](value):
            wrong.append(f"{key}={value}: it takes {rule[1]}")
    if wrong:
        raise ValueError(wrong[0])


OPTIONS = (
    "vocab_size max_length embedding_size hidden_size num_layers bidirectional dropout pooling "
    "embedding_dropout word_dropout"
).split()
