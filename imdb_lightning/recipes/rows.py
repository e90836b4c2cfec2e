"""The rows of the page: recipes with their runs, baselines, and what is made of both.

S seeds, N reviews. Logits are those of positive minus negative.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import yaml
from omegaconf import DictConfig

from .. import config, statistics, teacher
from ..report.published import SAME_RUN
from ..report.runs import Predictions, read_predictions, run_directories
from ..resume import DAMAGED
from ..run import Run


FREE = {*SAME_RUN, *config.BEFORE}  # in what runs of one recipe may differ


@dataclass
class Recipe:
    """A file of conf/experiment/recipes."""

    name: str
    what: str  # its first comment
    below: str | None  # the recipe that it changes
    settings: dict[str, Any]  # what it changes there


@dataclass
class Row:
    """One line of the table: the runs of one model, a seed each."""

    name: str
    what: str
    below: str | None = None  # the row that it is compared with
    metrics: list[dict[str, Any]] = field(default_factory=list)
    val: list[Predictions] = field(default_factory=list)
    test: list[Predictions] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)  # of the runs
    parts: list[Row] = field(default_factory=list)  # whose answers are in each of its own
    made_of: list[Row] = field(default_factory=list)  # whose seconds and memory it takes as well

    @property
    def right_SN(self) -> np.ndarray:
        """Which reviews of test were answered rightly."""
        return np.stack([test.right for test in self.test])

    @property
    def val_accuracy(self) -> float:
        return float(np.mean([val.right.mean() for val in self.val]))

    def only(self, seeds: list[int]) -> Row:
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

    def of(self, name: str) -> list[float]:
        return [run[name] for run in self.metrics if run.get(name) is not None]

    @property
    def refit(self) -> bool:
        """Whether val was trained on too."""
        return any(run.get("refit") for run in self.metrics)

    @property
    def read_unlabelled(self) -> bool:
        """Whether reviews without labels had a part in it."""
        return any(
            known.get("unsupervised")
            for run in self.metrics
            for known in (run["data"], *before(run["data"]))
        )

    @property
    def parameters(self) -> int:
        """Of one of its models, with all of its parts."""
        if self.parts:
            return sum(part.parameters for part in self.parts)
        return int(self.metrics[0]["parameters"])

    @property
    def peak(self) -> float | None:
        """Largest memory of its processes, one after another, bytes."""
        peaks = [*self.of("peak_memory"), *(row.peak for row in self.made_of)]
        return max((peak for peak in peaks if peak is not None), default=None)

    @property
    def core_seconds(self) -> float:
        """What one of its models takes, mean over runs, with all that went before."""
        # An ensemble takes what all of its runs do.
        models = [self.metrics] if len(self.seeds) == 1 else [[run] for run in self.metrics]
        return float(np.mean([sum(self.work(runs).values()) for runs in models]))

    def work(self, runs: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
        """Core-seconds of these runs and of those before them, by settings and seed: each once."""
        found = {(self.name, number): core_seconds(run) for number, run in enumerate(runs)}
        for run in runs:
            for known in before(run["data"]):
                found[known["settings"], known["seed"]] = core_seconds(known)
        seeds = {run["seed"] for run in runs}
        for row in self.made_of:  # a single model goes with each run, of several that of its seed
            several = len(row.metrics) > 1
            found |= row.work([r for r in row.metrics if not several or r["seed"] in seeds])
        return found


@dataclass
class Found:
    """What the directories hold."""

    rungs: dict[str, Row] = field(default_factory=dict)  # in the order of the ladder
    baselines: dict[str, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    fingerprint: str | None = None  # of the reviews, the same for all


def before(facts: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The runs from which it took something, and those from which they did."""
    pretrained = facts.get("pretrained")
    for known in [*([pretrained] if pretrained else ()), *(facts.get("teacher") or ())]:
        yield known
        yield from before(known)


def lineage(facts: dict[str, Any]) -> list[str]:
    """The settings of the runs before it."""
    return [known["settings"] for known in before(facts)]


def core_seconds(metrics: dict[str, Any]) -> float:
    """Of all threads; of a run that did not count them, as if none had ever waited."""
    counted = metrics.get("core_seconds")
    return metrics["seconds"] * threads(metrics["device"]) if counted is None else counted


def threads(device: str) -> int:
    """Of "cpu (2 threads)"; a GPU counts as one."""
    told = re.search(r"\((\d+) threads\)", device)
    return int(told[1]) if told else 1


def ladder() -> dict[str, Recipe]:
    """The recipes, each after the one that it changes, a shorter branch before a longer one."""
    recipes = {}
    for file in sorted((config.conf_dir() / "experiment" / "recipes").glob("*.yaml")):
        text = file.read_text("utf-8")
        content = yaml.safe_load(text)
        parents = [d for d in content.pop("defaults") if isinstance(d, str) and d != "_self_"]
        comments = [line[2:] for line in text.splitlines() if line.startswith("# ")]
        below = parents[0].split("/")[-1] if parents else None
        recipes[file.stem] = Recipe(file.stem, " ".join(comments[1:]), below, content)

    def above(name: str | None) -> list[str]:
        return [recipe.name for recipe in recipes.values() if recipe.below == name]

    def height(name: str) -> int:
        return 1 + max(map(height, above(name)), default=0)

    def walk(name: str | None) -> Iterable[str]:
        for other in sorted(above(name), key=lambda n: (height(n), n)):
            yield other
            yield from walk(other)

    return {name: recipes[name] for name in walk(None)}


def collect(folders: Iterable[Path]) -> Found:
    """The finished runs of recipes, and the baselines, in these folders and below."""
    found = Found()
    recipes = ladder()
    rows = {name: Row(name, recipe.what, recipe.below) for name, recipe in recipes.items()}
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
                    found.problems.append(f"{path}: other reviews than those of the first run")
                    continue
                splits = read_predictions(run.predictions)
                known = next(iter([*found.baselines.values(), *filled(rows)]), None)
                if known is not None and any(
                    not np.array_equal(splits[name].index, getattr(known, name)[0].index)
                    for name in ("val", "test")
                ):
                    found.problems.append(f"{path}: other rows in val or test")
                    continue
                if not metrics.get("baseline"):
                    own = (settings(run.config), lineage(metrics["data"]))
                    name = next((name for name, other in wanted().items() if other == own), None)
                    if name is None:
                        found.problems.append(f"{path}: its configuration is not that of a recipe")
                        continue
                    row = rows[name]
                    if metrics["seed"] in row.seeds:
                        found.problems.append(f"{path}: the same recipe and seed once more")
                        continue
                else:
                    row = Row(metrics["model"], f"{metrics['what']}={metrics['chosen']:g}")
                    if row.name in found.baselines:
                        found.problems.append(f"{path}: the same baseline once more")
                        continue
                    found.baselines[row.name] = row
            except (*DAMAGED, KeyError, pyarrow.ArrowException) as error:
                found.problems.append(f"{path}: unreadable: {error}")
                continue
            row.metrics.append(metrics)
            row.seeds.append(metrics["seed"])
            row.paths.append(path)
            row.val.append(splits["val"])
            row.test.append(splits["test"])
    found.rungs = {row.name: row.only(sorted(row.seeds)) for row in filled(rows)}
    for row in found.rungs.values():  # past rungs that have no runs
        while row.below is not None and row.below not in found.rungs:
            row.below = recipes[row.below].below
    return found


def filled(rows: Mapping[str, Row]) -> Iterable[Row]:
    return (row for row in rows.values() if row.seeds)


def settings(cfg: DictConfig) -> dict[str, Any]:
    """What makes a run one of a recipe: its configuration, but for seed, device and directories."""
    return {key: value for key, value in config.comparable(cfg).items() if key not in FREE}


@cache
def wanted() -> dict[str, tuple[dict[str, Any], list[str]]]:
    """The settings of each recipe, and the digests of those of the runs before it."""
    found = {}
    for name in ladder():
        (cfg,) = config.check([f"experiment=recipes/{name}"]).jobs
        found[name] = (settings(cfg), lineage(planned(cfg)))
    return found


def planned(cfg: DictConfig) -> dict[str, Any]:
    """As the facts of a run tell it: the settings of the runs before this one."""

    def of(experiment: str) -> dict[str, Any]:
        (earlier,) = config.check([f"experiment={experiment}"]).jobs
        digest = config.digest(earlier, seed=False, before=False)
        return {"settings": digest, **planned(earlier)}

    found: dict[str, Any] = {}
    if cfg.pretrained is not None:
        found["pretrained"] = of(f"pretrain/{Path(cfg.pretrained).name}")
    if cfg.teacher is not None:
        found["teacher"] = [
            # Of a grid's recipes-NAME,seed=0, else a baseline.
            of(f"recipes/{path.name.removeprefix('recipes-').split(',')[0]}")
            if path.name.startswith("recipes-")
            else {"settings": path.name}
            for path in teacher.paths(cfg.teacher)
        ]
    return found


# What is made of several models


def beside(row: Row, other: Row, name: str, what: str, on: tuple[Row, Row] | None = None) -> Row:
    """Each run's logit beside that of `other`, weighted on val.

    Of a refit, which has read val, the weights are those of the models `on` that it is a refit of.
    """
    made_of = [other, *(on or ())]
    made = Row(name, what, row.name, row.metrics, seeds=row.seeds, parts=[row, other])
    made.made_of = made_of
    known, known_other = on or (row, other)
    for number, (own_val, own_test) in enumerate(zip(row.val, row.test, strict=True)):
        val = known.val[number]
        w_K = statistics.weights(np.stack([val.logit, known_other.val[0].logit]), val.label)
        for kept, first, second in (
            (made.val, own_val, other.val[0]),
            (made.test, own_test, other.test[0]),
        ):
            sums_N = w_K @ np.stack([first.logit, second.logit])
            kept.append(Predictions(first.index, first.label, sums_N))
    return made


def ensemble(row: Row, name: str, what: str, on: Row | None = None) -> Row:
    """The mean of the seeds' logits, each by its own temperature: one model.

    Of a refit, the temperatures are those of the runs `on` that it is a refit of.
    """
    parts = [row.only([seed]) for seed in row.seeds]
    made = Row(name, what, row.name, row.metrics, seeds=[-1], parts=parts)
    made.made_of = [on] if on is not None else []
    temperatures = [statistics.temperature(val.logit, val.label) for val in (on or row).val]
    for kept, splits in ((made.val, row.val), (made.test, row.test)):
        logit_N = np.mean([s.logit / t for s, t in zip(splits, temperatures, strict=True)], 0)
        kept.append(Predictions(splits[0].index, splits[0].label, logit_N))
    return made


def against(row: Row, below: Row) -> tuple[float, tuple[float, float], float] | None:
    """Difference of accuracy on test, its interval, and McNemar's p; of the same seeds.

    A single model, such as an ensemble, is compared with each run of the other row, and the
    interval is for that model. None where there is nothing to compare.
    """
    seeds = sorted({*row.seeds} & {*below.seeds})
    if seeds:
        pairs = [(row.seeds.index(seed), below.seeds.index(seed)) for seed in seeds]
    elif 1 in (len(row.test), len(below.test)):
        pairs = [(i, j) for i in range(len(row.test)) for j in range(len(below.test))]
    else:
        return None
    first_SN = np.stack([row.test[i].right for i, _ in pairs])
    second_SN = np.stack([below.test[j].right for _, j in pairs])
    tests = [statistics.mcnemar(a, b) for a, b in zip(first_SN, second_SN, strict=True)]
    p = statistics.combined(
        [test.one_sided("greater") for test in tests], [test.one_sided("less") for test in tests]
    )
    if len(tests) == 1:
        p = tests[0].p
    difference_SN = first_SN.astype(np.int8) - second_SN.astype(np.int8)
    interval = statistics.paired_interval(difference_SN)
    return float(difference_SN.mean()), interval, p
