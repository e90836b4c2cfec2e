"""The page: the ablation ladder as a table and a figure, baselines, and combinations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from ..data import sources
from ..metrics import significance
from ..metrics.calibration import calibration_error, fit_temperature
from ..metrics.scores import length_groups, length_label
from ..report.figures import FAINT, LINES, STYLE, as_file, panel, svg
from ..report.templates import refuse_foreign, render
from ..runs import storage
from .rows import RecipeRuns, Row, combine, compare, ensemble, ladder


MARK = "<!-- imdb_lightning.recipes -->"
BASELINE = "nb_logistic"  # the one that is combined with recurrent networks


@dataclass
class RowStatistics:
    """A row with the numbers of the table. Accuracies are fractions 0..1."""

    row: Row
    interval: tuple[float, float]  # of the accuracy on test, over seeds and reviews
    unseen: float  # accuracy on test without the reviews that are also in train or unsupervised
    by_length: list[float]
    error: float | None  # of calibration, after the temperature fitted on val
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def val(self) -> float | None:
        """None if val was trained on."""
        return None if self.row.trained_on_val else self.row.val_accuracy

    @property
    def accuracy(self) -> float:
        return float(self.row.correct_SN.mean())

    @property
    def sd(self) -> float | None:
        values = self.row.correct_SN.mean(1)
        return float(values.std(ddof=1)) if len(values) > 1 else None


@dataclass
class TestReviews:
    """The test split: lengths, and which reviews are in another split too."""

    words_N: np.ndarray
    seen_N: np.ndarray
    counts: dict[str, int]


def write(found: RecipeRuns, path: str | None, folder: Path, command: str) -> list[Path]:
    """Write recipes.md and its figure. Raises ForeignFileError, or DataError without reviews."""
    page, plot = folder / "recipes.md", folder / "recipes_plots" / "ladder.svg"
    refuse_foreign(page, MARK)
    reviews = read_test_reviews(path, found.fingerprint)
    content = contents(found, reviews)
    plot.parent.mkdir(parents=True, exist_ok=True)
    groups = {
        "one recurrent network": content["ladder"],
        "several models": content["others"],
        "without recurrence": content["baselines"],
    }
    storage.atomic_write(plot, figure(groups).encode())
    text = render("recipes", "recipes.md.j2", {**content, "command": command, "mark": MARK})
    storage.atomic_write(page, text.encode())
    return [page, plot]


def read_test_reviews(path: str | None, fingerprint: str | None) -> TestReviews:
    """Raises DataError if these are not the reviews of the runs.

    Two texts are the same if they differ only in case, line breaks, punctuation and spaces.
    """
    root = sources.locate(path, unlabelled=True)
    if sources.fingerprint(root) != fingerprint:
        raise sources.DataError(f"{root}: not the reviews of the runs")
    official = sources.load(root, unlabelled=True)
    plain = {name: [bare(text) for text in part.texts] for name, part in official.items()}
    train, unlabelled = set(plain["train"]), set(plain["unsupervised"])
    test = plain["test"]
    counts = {
        "train in train": len(plain["train"]) - len(train),
        "test in test": len(test) - len(set(test)),
        "test in train": sum(text in train for text in test),
        "test in unsupervised": sum(text in unlabelled for text in test),
    }
    seen = np.array([text in train or text in unlabelled for text in test])
    words = np.array([len(text.split()) for text in official["test"].texts])
    return TestReviews(words, seen, counts)


def bare(text: str) -> str:
    return " ".join(re.sub(r"<br />|[\W_]", " ", text.lower()).split())


def contents(found: RecipeRuns, reviews: TestReviews) -> dict[str, Any]:
    """The variables of the template."""
    steps = [*found.steps.values()]
    rows = {**found.baselines, **found.steps}
    combined = combinations(found)
    lines = {row.name: statistics_of(row, reviews) for row in [*rows.values(), *combined]}
    for one in lines.values():
        parent = rows.get(one.row.parent or "")
        comparison = parent and compare(one.row, parent)
        if comparison:
            one.difference, one.difference_interval, one.p = comparison
    with_baseline = compare_with_baseline(found, lines)
    compared = [one for one in [*lines.values(), *with_baseline] if one.p is not None]
    for one, p in zip(compared, significance.holm([c.p or 0.0 for c in compared]), strict=True):
        one.p_holm = p
    every = [run for row in rows.values() for run in row.metrics]
    return {
        "ladder": [lines[row.name] for row in steps],
        "not_better": [
            one
            for one in (lines[row.name] for row in steps)
            if one.difference is not None and (one.difference < 0 or (one.p_holm or 0) > 0.05)
        ],
        "baselines": [lines[name] for name in found.baselines],
        "with_baseline": with_baseline,
        "others": [lines[row.name] for row in combined],
        "lengths": [length_label(low, high) for low, high, _ in length_groups(reviews.words_N)],
        "length_counts": [int(group.sum()) for *_, group in length_groups(reviews.words_N)],
        "counts": reviews.counts,
        "reviews": len(reviews.words_N),
        "val_reviews": len(steps[0].val[0].index),
        "seen": int(reviews.seen_N.sum()),
        "devices": sorted({hardware(run) for run in every}),
        "commits": sorted({str(run["git"]) for run in every if run.get("git")}),
    }


def hardware(run: Mapping[str, Any]) -> str:
    return f"{run['processor']}, {run['device']}"


def compare_with_baseline(
    found: RecipeRuns, lines: Mapping[str, RowStatistics]
) -> list[RowStatistics]:
    """Each recipe, a single network, compared with the baseline that has read as many labels."""
    compared = []
    for row in found.steps.values():
        name = f"{BASELINE}_refit" if row.trained_on_val else BASELINE
        baseline = found.baselines.get(name)
        comparison = baseline and compare(row, replace(baseline, seeds=[-1]))  # with each run
        if baseline and comparison:
            one = replace(lines[row.name], row=replace(row, parent=baseline.name))
            one.difference, one.difference_interval, one.p = comparison
            compared.append(one)
    return compared


def combinations(found: RecipeRuns) -> list[Row]:
    """Combinations of the best recipe on val of each branch that has a refit, and of its refit.

    Each with the baseline, as an ensemble, and both. If there are no refits, of all recipes.
    """
    chosen = [row for row in found.steps.values() if not row.trained_on_val]
    refits = {ladder()[row.name].parent for row in found.steps.values() if row.trained_on_val}
    chosen = [row for row in chosen if row.name in refits] or chosen
    baseline, baseline_refit = (
        found.baselines.get(name) for name in (BASELINE, f"{BASELINE}_refit")
    )
    combined = []
    for title, rows in (
        ("labelled reviews only", [row for row in chosen if not row.used_unlabelled]),
        ("unlabelled reviews too", [row for row in chosen if row.used_unlabelled]),
    ):
        if not rows:
            continue
        best = max(rows, key=lambda row: row.val_accuracy)
        combined += combine_all(best, baseline, title)
        for row in found.steps.values():
            seeds = [seed for seed in row.seeds if seed in best.seeds]
            if row.trained_on_val and ladder()[row.name].parent == best.name and seeds:
                refit = baseline_refit if baseline is not None else None
                combined += combine_all(
                    row.select_seeds(seeds), refit, title, best.select_seeds(seeds), baseline
                )
    return combined


def combine_all(
    row: Row,
    baseline: Row | None,
    title: str,
    original: Row | None = None,
    original_baseline: Row | None = None,
) -> list[Row]:
    """`original`: what the row and the baseline are refits of."""
    combined = []
    several = len(row.seeds) > 1
    on = None
    if original is not None and original_baseline is not None:
        on = (original, original_baseline)
    if several:
        what = f"{title}: mean logit of {len(row.seeds)} seeds"
        one = ensemble(row, f"{row.name}, ensemble", what, original)
        combined.append(one)
    if baseline is not None:
        what = f"{title}: sum of its logit and {baseline.name}'s, weighted on val"
        combined.append(combine(row, baseline, f"{row.name} + {baseline.name}", what, on))
        if several:
            if on is not None:
                on = (ensemble(on[0], "", ""), on[1])
            what = f"{title}: sum of the ensemble's logit and {baseline.name}'s, weighted on val"
            both = combine(one, baseline, f"{one.name} + {baseline.name}", what, on)
            both.parent = row.name
            combined.append(both)
    return combined


def statistics_of(row: Row, reviews: TestReviews) -> RowStatistics:
    correct_SN = row.correct_SN
    errors = [
        calibration_error(test.logit / fit_temperature(val.logit, val.label), test.label)
        for val, test in zip(row.val, row.test, strict=True)
        if not row.trained_on_val  # a model is not calibrated on what it was trained on
    ]
    return RowStatistics(
        row,
        significance.paired_interval(correct_SN.astype(np.int8)),
        float(correct_SN[:, ~reviews.seen_N].mean()),
        [float(correct_SN[:, group].mean()) for *_, group in length_groups(reviews.words_N)],
        float(np.mean(errors)) if errors else None,
    )


def figure(groups: Mapping[str, Sequence[RowStatistics]]) -> str:
    """Accuracy on test by CPU seconds, with intervals."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "recipes"}):
        drawn, axes = panel("", "CPU seconds", "test accuracy, %")
        drawn.set_size_inches(7, 6)
        points = []
        for (name, some), mark, color in zip(groups.items(), "o^s", LINES, strict=False):
            for one in some:
                seconds, percent = one.row.cpu_seconds, 100 * one.accuracy
                low, high = one.interval
                axes.plot([seconds] * 2, [100 * low, 100 * high], color=FAINT, linewidth=1)
                label = name if one is some[0] else None
                axes.plot(seconds, percent, mark, color=color, markersize=5, label=label)
                points.append((seconds, percent, one.row.name.replace("_", " ")))
        shown = [seconds for seconds, _, _ in points]
        axes.set_xscale("log")
        axes.set_xlim(min(shown) / 1.5, max(shown) * 4)  # room for the last one's name
        ticks = [k * 10**n for n in range(6) for k in (1, 2, 5)]
        ticks = [tick for tick in ticks if min(shown) / 1.5 <= tick <= max(shown) * 4]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.legend(loc="lower right")
        name_points(drawn, axes, points)
        return as_file(svg(drawn))


def name_points(drawn: Figure, axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Label each point, as near to it as other names and points permit."""
    drawn.draw_without_rendering()  # names are measured in the axes' final position
    dots = axes.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in dots]
    legend = axes.get_legend()
    taken += [] if legend is None else [legend.get_window_extent()]
    places = [*product(sorted(range(-160, 161, 4), key=abs), ("left", "right"))]
    for point in sorted(points, key=lambda point: -point[1]):
        for place in places:
            name = write_name(axes, *point, *place)
            name.get_window_extent()  # updates its position
            box = Text.get_window_extent(name)  # without its line
            inside = all(axes.bbox.contains(*corner) for corner in box.corners())
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            name.remove()
        else:
            write_name(axes, *point, *places[0])  # rather over another name than no name


def write_name(axes: Axes, x: float, y: float, text: str, dy: int, align: str) -> Annotation:
    """Right or left of its point (`align` left or right), or `dy` above and with a line to it."""
    left = align == "left"
    line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "relpos": (1 - left, 0.5)}
    return axes.annotate(
        text,
        (x, y),
        (7 if left else -7, dy),
        textcoords="offset points",
        ha=align,
        va="center",
        arrowprops=line if dy else None,
    )
