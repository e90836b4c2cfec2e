"""The classes that a configuration may name, and where it names one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


TRUSTED_TARGETS = {
    "layer": {f"torch.nn.{name}" for name in ("RNN", "LSTM", "GRU")},
    "cell": {f"imdb_lightning.model.cells.{name}Cell" for name in ("RNN", "LSTM", "GRU")},
}
CELL_OPTIONS = {"imdb_lightning.model.cells.GRUCell": {"reset"}}


def targets(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The path and the value of every `_target_` in nested dictionaries and lists."""
    if isinstance(node, dict):
        for key, value in node.items():
            here = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield here, value
            yield from targets(value, here)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from targets(value, f"{path}[{number}]")


def foreign_targets(config: Any) -> list[tuple[str, str]]:
    """(key, class) of those in a run's configuration that are neither PyTorch's layers nor ours."""
    trusted = {f"model.{kind}._target_": names for kind, names in TRUSTED_TARGETS.items()}
    return [
        (path, str(value))
        for path, value in targets(config)
        if str(value) not in trusted.get(path, ())
    ]
