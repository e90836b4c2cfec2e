"""The runs of a report, read from their directories and grouped by configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf.errors import OmegaConfBaseException

from ..config.identity import MACHINE_KEYS, canonical_config, config_hash
from ..config.schema import EXECUTION_KEYS, REQUIRED, check_value
from ..config.text import one_line, printable
from ..runs import predictions, sweep
from ..runs.predictions import Predictions
from ..runs.run import Run


@dataclass
class Result:
    """A finished run."""

    path: Path
    metrics: dict[str, Any]
    config: dict[str, Any]  # flat
    splits: dict[str, Predictions]

    @property
    def seed(self) -> int:
        return self.metrics["seed"]


@dataclass
class Configuration:
    """The finished runs of one configuration, by seed, and the seeds that grids planned."""

    hash: str
    fingerprint: str | None = None  # of the reviews
    results: dict[int, Result] = field(default_factory=dict)
    planned: set[int] = field(default_factory=set)
    label: str = ""

    @property
    def config(self) -> dict[str, Any]:
        return next(iter(self.results.values())).config

    @property
    def dataset(self) -> str:
        return self.config["data.name"]

    def values(self, name: str) -> list[float]:
        return [result.metrics[name] for result in self.results.values()]


class Unfinished(NamedTuple):
    """A run that is not part of the means."""

    path: Path
    why: str


@dataclass
class ReportRuns:
    """The content of the directories, and a line for each problem."""

    configurations: list[Configuration]
    unfinished: list[Unfinished]
    problems: list[str]

    @property
    def results(self) -> list[Result]:
        return [r for c in self.configurations for r in c.results.values()]


def collect(folders: Iterable[Path]) -> ReportRuns:
    """The runs in these folders: run directories, sweeps, or folders of them, also unfinished."""
    found: dict[tuple[str, str | None], Configuration] = {}
    planned: dict[str, set[int]] = {}
    collection = ReportRuns([], [], [])
    seen: set[Path] = set()
    for folder in folders:
        paths = list(run_directories(folder))
        if not paths:
            collection.problems.append(f"{folder}: contains no runs")
        for path in paths:
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _add(path, found, collection)
        for file in sorted(folder.rglob("sweep.json")):
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            for name, job in sweep.read_plan(file.parent).items():
                planned.setdefault(job["configuration"], set()).add(job["seed"])
                if not (file.parent / name).exists():
                    collection.unfinished.append(Unfinished(file.parent / name, "not started"))
    for configuration in found.values():
        configuration.results = dict(sorted(configuration.results.items()))
        configuration.planned = planned.get(configuration.hash, set()) | {*configuration.results}
        collection.configurations.append(configuration)
    label(collection.configurations)
    return collection


def run_directories(folder: Path) -> Iterator[Path]:
    """The run directories in `folder`, itself included; not the earlier attempts of a sweep."""
    for path, names, files in os.walk(folder):
        names.sort()
        if "metrics.json" in files or ".hydra" in names:
            yield Path(path)
            names.clear()
        names[:] = [name for name in names if not name.startswith(".")]


def _add(
    path: Path, found: dict[tuple[str, str | None], Configuration], collection: ReportRuns
) -> None:
    """Runs on different reviews are different configurations."""
    run = Run(path)
    try:
        metrics = run.metrics
    except OSError:
        collection.problems.append(f"{path}: no metrics.json")
        return
    except ValueError as error:
        collection.problems.append(f"{path}: metrics.json is corrupt: {one_line(error)}")
        return
    if metrics.get("status") != "done":
        collection.unfinished.append(Unfinished(path, sweep.failure_reason(run)))
        return
    if metrics.keys() & {"pretrain", "baseline"}:
        return  # they belong to the page of the recipes
    wrong = wrong_metrics(metrics)
    if wrong:
        collection.problems.append(f"{path}: metrics.json {wrong}")
        return
    try:
        splits = predictions.read(run.predictions, "val", "test")
    except (OSError, ValueError) as error:
        what = f"predictions.parquet is missing or corrupt: {one_line(error)}"
        collection.problems.append(f"{path}: {what}")
        return
    try:
        own = run.config
        hashed, flat = config_hash(own, seed=False), canonical_config(own)
        missing = sorted({*REQUIRED} - {*MACHINE_KEYS, *EXECUTION_KEYS} - {*flat})
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        for name, value in flat.items():
            if line := check_value(name, value):
                raise ValueError(line)
    except (OSError, ValueError, TypeError, AttributeError, OmegaConfBaseException) as error:
        what = f".hydra/config.yaml is missing or corrupt: {one_line(error)}"
        collection.problems.append(f"{path}: {what}")
        return
    key = (hashed, sweep.fingerprint(metrics))
    configuration = found.setdefault(key, Configuration(*key))
    result = Result(path, metrics, flat, splits)
    other = configuration.results.setdefault(result.seed, result)
    if other is not result:
        what = "the same configuration and seed; only the first is in the report"
        collection.problems.append(f"{other.path} and {path}: {what}")


NUMBERS = "parameters best_epoch val/acc val/loss test/acc test/loss seconds".split()
EPOCH_METRICS = "epoch train/loss train/acc val/loss val/acc".split()
KINDS = {"dataset": str, "model": str, "device": str, "seed": int, "versions": dict, "data": dict}


def wrong_metrics(metrics: dict[str, Any]) -> str | None:
    """The first metric that a report needs and that is missing or of the wrong type."""
    for name, kind in KINDS.items():
        if not isinstance(metrics.get(name), kind):
            return f"has no {name}"
    epochs = metrics.get("epochs")
    if not isinstance(epochs, list) or not epochs:
        return "has no epochs"
    complete = [
        isinstance(e, dict) and all(_number(e.get(name)) for name in EPOCH_METRICS) for e in epochs
    ]
    if not all(complete):
        return "has an epoch without its numbers"
    return next((f"has no {name}" for name in NUMBERS if not _number(metrics.get(name))), None)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def label(configurations: list[Configuration]) -> None:
    """Label each one with its model and the keys that distinguish it within its dataset."""
    for dataset in {c.dataset for c in configurations}:
        same = [c for c in configurations if c.dataset == dataset]
        keys = {key for c in same for key in c.config}
        values = {key: {str(c.config.get(key)) for c in same} for key in keys}
        # A key that all configurations of some models have comes with the model: it says nothing.
        models = {key: {c.config["model.name"] for c in same if key in c.config} for key in keys}
        of_model = {
            key
            for key in keys
            if all((key in c.config) == (c.config["model.name"] in models[key]) for c in same)
            and len({str(c.config[key]) for c in same if key in c.config}) == 1
        }
        varies = sorted(
            key
            for key in keys - {"seed", "model.name"} - of_model
            if not key.endswith("_target_") and len(values[key]) > 1
        )
        for c in same:
            own = [key for key in varies if key in c.config]
            parts = [f"{key.split('.', 1)[-1]}={c.config[key]}" for key in own]
            c.label = printable(" ".join([c.config["model.name"], *parts]))
        labels = [c.label for c in same]
        for c in same:
            if labels.count(c.label) > 1:
                c.label += f" reviews={(c.fingerprint or 'none')[:8]}"
