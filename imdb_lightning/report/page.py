"""The report itself: report.md with its plots, and report.html in one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.identity import SPLIT_KEYS, SYNTHETIC_KEYS
from ..metrics import significance
from ..metrics.calibration import BINS, calibration_error, fit_temperature, nll
from ..runs import storage
from . import claims, figures, hard_reviews, published
from .claims import Claim
from .runs import Configuration, ReportRuns, Result
from .templates import refuse_foreign, render


MARK = "imdb_lightning.report"  # in every file that this module writes
MARKS = (f"<!-- {MARK} -->", f'<meta name="generator" content="{MARK}">')
MAX_SHOWN = 8  # configurations in one plot, runs in the list of the slowest
REPRODUCTION_TOLERANCE = 0.015  # accuracy: how near the published number a mean should be


@dataclass
class TableRow:
    """One configuration in a table. Accuracies are fractions 0..1."""

    configuration: Configuration | None
    label: str
    published: float | None = None

    @property
    def count(self) -> str:
        """Finished seeds, of those that grids planned."""
        if self.configuration is None:
            return "0"
        done, planned = len(self.configuration.results), len(self.configuration.planned)
        return str(done) if done == planned else f"{done} of {planned}"

    def mean(self, name: str) -> float:
        assert self.configuration is not None
        return float(np.mean(self.configuration.values(name)))

    def sd(self, name: str) -> float | None:
        assert self.configuration is not None
        values = self.configuration.values(name)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def in_interval(self) -> str:
        """If the published number is in the prediction interval of one more run: yes or no."""
        assert self.configuration is not None and self.published is not None
        interval = significance.prediction_interval(self.configuration.values("val/acc"))
        if interval is None:
            return "needs two seeds"
        low, high = interval
        inside = low <= self.published <= high
        return f"{'yes' if inside else 'no'} ({low:.4f} to {high:.4f})"

    @property
    def is_far(self) -> bool:
        return (
            self.published is not None
            and abs(self.mean("val/acc") - self.published) > REPRODUCTION_TOLERANCE
        )


@dataclass
class Calibration:
    """Calibration of one configuration: means over seeds on test, before and after the
    temperature.
    """

    label: str
    temperature: float
    error: tuple[float, float]
    nll: tuple[float, float]
    plot: str


@dataclass
class Group:
    """Configurations on the same reviews, without the report's and the memory grid's."""

    title: str
    rows: list[TableRow]
    curves: str
    claims: list[Claim]


def write(collection: ReportRuns, folder: Path, command: str) -> list[Path]:
    """report.md, its plots in report_plots/, and report.html, made by `command`.

    Raises ForeignFileError and writes nothing.
    """
    pages = [folder / "report.md", folder / "report.html"]
    for file in pages:
        refuse_foreign(file, *MARKS)
    content = {**contents(collection), "command": command}
    plots = folder / "report_plots"
    if not pages[0].exists():
        refuse_foreign(plots)
    for name, plot in content.pop("plots").items():
        plots.mkdir(parents=True, exist_ok=True)
        storage.atomic_write(plots / f"{name}.svg", figures.as_file(plot).encode())
    folder.mkdir(parents=True, exist_ok=True)
    for file in pages:
        text = render("report", f"{file.name}.j2", content)
        storage.atomic_write(file, text.encode("utf-8", "replace"))
    return pages


def contents(collection: ReportRuns) -> dict[str, Any]:
    """The variables of the templates."""
    configurations = collection.configurations
    plots: dict[str, str] = {}

    def plot(name: str, text: str) -> str:
        """Keep a plot; returns its name."""
        plots[name] = text
        return name

    rows, panels = [], []
    for name, paper in published.runs().items():
        configuration = published.find(name, configurations)
        if configuration is not None:
            configuration.label = f"report/{name}"
            panels += [
                plot(f"{name}-{kind}", figures.learning_curve(configuration, kind, paper))
                for kind in ("acc", "loss")
            ]
        rows.append(TableRow(configuration, f"report/{name}", paper["epochs"][-1]["test_acc"]))
    repeated = [row for row in rows if row.configuration is not None]
    published.name_after_nearest(configurations)

    models = claims.memory(configurations)
    in_memory = [c for distances in models.values() for c in distances.values()]
    if sum(len(distances) > 1 for distances in models.values()):
        memory = plot("memory", figures.memory(models))
    else:
        memory, in_memory = "", []

    ours = {id(row.configuration) for row in repeated} | {id(c) for c in in_memory}
    groups: list[Group] = []
    for same in by_reviews(configurations):
        others = [c for c in same if id(c) not in ours]
        if others:
            number = len(groups) + 1
            title = f"{same[0].dataset} reviews" + (f", {number}" if number > 1 else "")
            shown = sorted(others, key=lambda c: -float(np.mean(c.values("val/acc"))))
            drawn = plot(f"others-{number}", figures.curves(shown[:MAX_SHOWN], title))
            against = [c for c in same if id(c) not in {id(m) for m in in_memory}]
            compared = claims.against_the_best(against)
            groups.append(Group(title, [TableRow(c, c.label) for c in shown], drawn, compared))

    calibrated = []
    for number, c in enumerate(
        c
        for c in configurations
        if id(c) not in {id(m) for m in in_memory} and not c.config.get("data.train_on_val")
    ):
        temperatures = {
            seed: fit_temperature(r.splits["val"].logit, r.splits["val"].label)
            for seed, r in c.results.items()
        }
        calibrated.append(calibration(c, temperatures, number, plot))

    results = collection.results
    return {
        "mark": MARK,
        "rows": rows if repeated else [],
        "far": [row for row in repeated if row.is_far],
        "panels": panels,
        "claims": claims.report_claims(configurations) if repeated or memory else [],
        "memory": memory,
        "memory_rows": [
            (name, [(d, TableRow(c, c.label)) for d, c in sorted(distances.items())])
            for name, distances in sorted(models.items())
        ]
        if memory
        else [],
        "calibrations": calibrated,
        "groups": groups,
        "slowest": sorted(results, key=lambda r: -r.metrics["seconds"])[:MAX_SHOWN],
        "unfinished": collection.unfinished,
        "problems": collection.problems,
        "counts": {
            name: sum(r.metrics["dataset"] == name for r in results)
            for name in ("imdb", "synthetic")
        },
        "devices": sorted({r.metrics["device"] for r in results}),
        "versions": sorted({versions(r) for r in results}),
        "commits": sorted({str(r.metrics["git"] or "no git") for r in results}),
        "margin": claims.MARGIN,
        "min_seeds": claims.MIN_SEEDS,
        "bins": BINS,
        "close": REPRODUCTION_TOLERANCE,
        "hard_reviews": hard_reviews.hardest(results),
        "plots": plots,
        "svg": plots.copy(),
    }


def calibration(
    c: Configuration, temperatures: dict[int, float], number: int, plot: Callable[[str, str], str]
) -> Calibration:
    tests = {seed: result.splits["test"] for seed, result in c.results.items()}

    def mean(measure: Callable[[np.ndarray, np.ndarray], float]) -> tuple[float, float]:
        before = [measure(test.logit, test.label) for test in tests.values()]
        after = [measure(t.logit / temperatures[s], t.label) for s, t in tests.items()]
        return float(np.mean(before)), float(np.mean(after))

    drawn = plot(f"reliability-{number + 1}", figures.reliability(c, temperatures))
    return Calibration(
        c.label,
        float(np.exp(np.mean(np.log(list(temperatures.values()))))),
        mean(calibration_error),
        mean(nll),
        drawn,
    )


def by_reviews(configurations: Sequence[Configuration]) -> list[list[Configuration]]:
    """Configurations grouped by the reviews of their runs."""
    groups: dict[Any, list[Configuration]] = {}
    for c in configurations:
        keys = (*SPLIT_KEYS, *(SYNTHETIC_KEYS if c.dataset == "synthetic" else ()))
        key = (c.fingerprint, *(c.config[name] for name in keys))
        groups.setdefault(key, []).append(c)
    return list(groups.values())


def versions(result: Result) -> str:
    return ", ".join(f"{name} {number}" for name, number in result.metrics["versions"].items())
