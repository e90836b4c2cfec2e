"""The rows of the page: recipes with their runs, baselines, and combinations of both.

S seeds, N reviews. Logits are positive minus negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig

from ..config.identity import (
    REPLICA_KEYS,
    UPSTREAM_KEYS,
    canonical_config,
    config_hash,
    without,
)
from ..config.overrides import check_command_line
from ..config.paths import conf_dir
from ..data.sources import UNLABELLED
from ..metrics import significance
from ..metrics.calibration import ensemble_weights, fit_temperature
from ..report.runs import run_directories
from ..runs import predictions
from ..runs.predictions import Predictions
from ..runs.resume import READ_ERRORS
from ..runs.run import Run
from ..transfer.teacher import Teachers


@dataclass
class Recipe:
    """A file of conf/experiment/recipes."""

    name: str
    description: str  # its first comment
    parent: str | None  # the recipe that it changes


@dataclass
class Row:
    """One line of the table: the runs of one model, a seed each."""

    name: str
    description: str
    parent: str | None = None  # the row that it is compared with
    metrics: list[dict[str, Any]] = field(default_factory=list)
    val: list[Predictions] = field(default_factory=list)
    test: list[Predictions] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)  # of the runs
    parts: list[Row] = field(default_factory=list)  # the models that it combines
    depends_on: list[Row] = field(default_factory=list)  # whose seconds and memory count as well

    @property
    def correct_SN(self) -> np.ndarray:
        """Which reviews of test were classified correctly."""
        return np.stack([test.correct for test in self.test])

    @property
    def val_accuracy(self) -> float:
        return float(np.mean([val.correct.mean() for val in self.val]))

    def select_seeds(self, seeds: list[int]) -> Row:
        """Its runs of these seeds, in their order."""
        at = [self.seeds.index(seed) for seed in seeds]
        return replace(
            self,
            metrics=[self.metrics[i] for i in at],
            val=[self.val[i] for i in at],
            test=[self.test[i] for i in at],
            seeds=[*seeds],
            paths=[self.paths[i] for i in at],
        )

    def values(self, name: str) -> list[float]:
        """A metric of each run that has it."""
        return [run[name] for run in self.metrics if run.get(name) is not None]

    @property
    def trained_on_val(self) -> bool:
        return any(run.get("train_on_val") for run in self.metrics)

    @property
    def used_unlabelled(self) -> bool:
        """True if it or a run upstream used the unlabelled reviews."""
        return any(
            run["data"].get(UNLABELLED)
            or any(known["use_unlabelled"] for known in upstream(run["data"]))
            for run in self.metrics
        )

    @property
    def parameters(self) -> int:
        """The parameters of one model, with all of its parts."""
        if self.parts:
            return sum(part.parameters for part in self.parts)
        return int(self.metrics[0]["parameters"])

    @property
    def peak(self) -> float | None:
        """The largest peak memory of its processes, bytes."""
        peaks = [*self.values("peak_memory"), *(row.peak for row in self.depends_on)]
        return max((peak for peak in peaks if peak is not None), default=None)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of one model, mean over runs, with everything upstream."""
        # An ensemble takes the time of all its runs.
        models = [self.metrics] if len(self.seeds) == 1 else [[run] for run in self.metrics]
        return float(np.mean([sum(self.cost(runs).values()) for runs in models]))

    def cost(self, runs: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
        """CPU seconds of these runs and of those upstream, by settings and seed: each once."""
        found = {(self.name, number): run["cpu_seconds"] for number, run in enumerate(runs)}
        for run in runs:
            for known in upstream(run["data"]):
                found[known["settings"], known["seed"]] = known["cpu_seconds"]
        seeds = {run["seed"] for run in runs}
        for row in self.depends_on:  # a single model for each run, of several that of its seed
            several = len(row.metrics) > 1
            found |= row.cost([r for r in row.metrics if not several or r["seed"] in seeds])
        return found


@dataclass
class RecipeRuns:
    """The runs of the directories, by recipe and baseline."""

    steps: dict[str, Row] = field(default_factory=dict)  # recipes, in the order of the ladder
    baselines: dict[str, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    fingerprint: str | None = None  # of the reviews, the same for all runs


def upstream(data: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Provenance of the runs from which a run took something, and of those upstream of them."""
    pretrained = data.get("pretrained")
    for known in [*([pretrained] if pretrained else ()), *(data.get("teacher") or ())]:
        yield known
        yield from upstream(known)


def upstream_settings(data: dict[str, Any]) -> list[str]:
    return [known["settings"] for known in upstream(data)]


def ladder() -> dict[str, Recipe]:
    """The recipes, each after its parent, a shorter branch before a longer one."""
    recipes = {}
    for file in sorted((conf_dir() / "experiment" / "recipes").glob("*.yaml")):
        text = file.read_text("utf-8")
        parents = [
            Path(d).name
            for d in yaml.safe_load(text)["defaults"]
            if isinstance(d, str) and not d.split("/")[-1].startswith("_")
        ]
        comments = [line[2:] for line in text.splitlines() if line.startswith("# ")]
        parent = parents[0] if parents else None
        recipes[file.stem] = Recipe(file.stem, " ".join(comments[1:]), parent)

    def children(name: str | None) -> list[str]:
        return [recipe.name for recipe in recipes.values() if recipe.parent == name]

    def height(name: str) -> int:
        return 1 + max(map(height, children(name)), default=0)

    def walk(name: str | None) -> Iterable[str]:
        for other in sorted(children(name), key=lambda n: (height(n), n)):
            yield other
            yield from walk(other)

    return {name: recipes[name] for name in walk(None)}


def collect(folders: Iterable[Path]) -> RecipeRuns:
    """The finished runs of recipes, and the baselines, in these folders and below."""
    found = RecipeRuns()
    recipes = ladder()
    rows = {name: Row(name, recipe.description, recipe.parent) for name, recipe in recipes.items()}
    for folder in folders:
        for path in run_directories(folder):
            run = Run(path)
            try:
                metrics = run.metrics
                if "pretrain" in metrics:
                    continue
                if metrics.get("status") != "done":
                    found.problems.append(f"{path}: {metrics.get('status')}")
                    continue
                reviews = metrics["data"].get("fingerprint")
                found.fingerprint = found.fingerprint or reviews
                if reviews is None or reviews != found.fingerprint:
                    found.problems.append(f"{path}: its reviews differ from those of the first run")
                    continue
                splits = predictions.read(run.predictions, "val", "test")
                known = next(iter([*found.baselines.values(), *filled(rows)]), None)
                if known is not None and any(
                    not np.array_equal(splits[name].index, getattr(known, name)[0].index)
                    for name in ("val", "test")
                ):
                    found.problems.append(f"{path}: val or test differs from the first run's")
                    continue
                if not metrics.get("baseline"):
                    own = (settings(run.config), upstream_settings(metrics["data"]))
                    name = next((name for name, other in wanted().items() if other == own), None)
                    if name is None:
                        found.problems.append(f"{path}: its configuration is no recipe's")
                        continue
                    row = rows[name]
                    if metrics["seed"] in row.seeds:
                        found.problems.append(f"{path}: a second run of the same recipe and seed")
                        continue
                else:
                    row = Row(metrics["model"], f"{metrics['hyperparameter']}={metrics['value']:g}")
                    if row.name in found.baselines:
                        found.problems.append(f"{path}: a second run of the same baseline")
                        continue
                    found.baselines[row.name] = row
            except (*READ_ERRORS, KeyError) as error:
                found.problems.append(f"{path}: unreadable: {error}")
                continue
            row.metrics.append(metrics)
            row.seeds.append(metrics["seed"])
            row.paths.append(path)
            row.val.append(splits["val"])
            row.test.append(splits["test"])
    found.steps = {row.name: row.select_seeds(sorted(row.seeds)) for row in filled(rows)}
    for row in found.steps.values():  # skip steps without runs
        while row.parent is not None and row.parent not in found.steps:
            row.parent = recipes[row.parent].parent
    return found


def filled(rows: Mapping[str, Row]) -> Iterable[Row]:
    return (row for row in rows.values() if row.seeds)


def settings(cfg: DictConfig) -> dict[str, Any]:
    """The configuration of a recipe's run, without seed, device and directories."""
    return without(canonical_config(cfg), *REPLICA_KEYS, *UPSTREAM_KEYS)


@cache
def wanted() -> dict[str, tuple[dict[str, Any], list[str]]]:
    """The settings of each recipe, and the hashes of those of the runs upstream."""
    found = {}
    for name in ladder():
        (cfg,) = check_command_line([f"experiment=recipes/{name}"]).jobs
        found[name] = (settings(cfg), upstream_settings(planned(cfg)))
    return found


def planned(cfg: DictConfig) -> dict[str, Any]:
    """Provenance as a run of this configuration would record it: the settings of upstream runs."""

    def of(experiment: str) -> dict[str, Any]:
        (earlier,) = check_command_line([f"experiment={experiment}"]).jobs
        digest = config_hash(earlier, seed=False, upstream=False)
        return {"settings": digest, **planned(earlier)}

    found: dict[str, Any] = {}
    if cfg.pretrained is not None:
        found["pretrained"] = of(f"pretrain/{Path(cfg.pretrained).name}")
    if cfg.teacher is not None:
        found["teacher"] = [
            # A grid's recipes-NAME,seed=0, or a baseline.
            of(f"recipes/{path.name.removeprefix('recipes-').split(',')[0]}")
            if path.name.startswith("recipes-")
            else {"settings": path.name}
            for path in Teachers(cfg.teacher).paths
        ]
    return found


# Combinations of models


def combine(row: Row, other: Row, name: str, what: str, on: tuple[Row, Row] | None = None) -> Row:
    """The weighted sum of each run's logit and that of `other`, with weights fitted on val.

    For a refit, which was trained on val, the weights are those of the models `on` that it refits.
    """
    depends_on = [other, *(on or ())]
    combined = Row(name, what, row.name, row.metrics, seeds=row.seeds, parts=[row, other])
    combined.depends_on = depends_on
    known, known_other = on or (row, other)
    for number, (own_val, own_test) in enumerate(zip(row.val, row.test, strict=True)):
        val = known.val[number]
        w_K = ensemble_weights(np.stack([val.logit, known_other.val[0].logit]), val.label)
        for kept, first, second in (
            (combined.val, own_val, other.val[0]),
            (combined.test, own_test, other.test[0]),
        ):
            sums_N = w_K @ np.stack([first.logit, second.logit])
            kept.append(Predictions(first.index, first.label, sums_N))
    return combined


def ensemble(row: Row, name: str, what: str, on: Row | None = None) -> Row:
    """The mean of the seeds' logits, each divided by its own temperature: one model.

    For a refit, the temperatures are those of the runs `on` that it refits.
    """
    parts = [row.select_seeds([seed]) for seed in row.seeds]
    combined = Row(name, what, row.name, row.metrics, seeds=[-1], parts=parts)
    combined.depends_on = [on] if on is not None else []
    temperatures = [fit_temperature(val.logit, val.label) for val in (on or row).val]
    for kept, splits in ((combined.val, row.val), (combined.test, row.test)):
        logit_N = np.mean([s.logit / t for s, t in zip(splits, temperatures, strict=True)], 0)
        kept.append(Predictions(splits[0].index, splits[0].label, logit_N))
    return combined


def compare(row: Row, other: Row) -> tuple[float, tuple[float, float], float] | None:
    """Difference of accuracy on test, its interval, and McNemar's p; of the same seeds.

    A single model, such as an ensemble, is compared with each run of the other row, and the
    interval is for that model. None if there is nothing to compare.
    """
    seeds = sorted({*row.seeds} & {*other.seeds})
    if seeds:
        pairs = [(row.seeds.index(seed), other.seeds.index(seed)) for seed in seeds]
    elif 1 in (len(row.test), len(other.test)):
        pairs = [(i, j) for i in range(len(row.test)) for j in range(len(other.test))]
    else:
        return None
    first_SN = np.stack([row.test[i].correct for i, _ in pairs])
    second_SN = np.stack([other.test[j].correct for _, j in pairs])
    tests = [significance.mcnemar(a, b) for a, b in zip(first_SN, second_SN, strict=True)]
    p = significance.combined_p(
        [test.one_sided("greater") for test in tests], [test.one_sided("less") for test in tests]
    )
    if len(tests) == 1:
        p = tests[0].p
    difference_SN = first_SN.astype(np.int8) - second_SN.astype(np.int8)
    interval = significance.paired_interval(difference_SN)
    return float(difference_SN.mean()), interval, p
