"""The page: the ladder as one table and one figure, and what stands beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from .. import durable, statistics
from ..data import sources
from ..evaluate import LENGTHS
from ..report.figures import FAINT, LINES, STYLE, as_file, panel, svg
from .rows import Found, Row, against, beside, ensemble, ladder


MARK = "<!-- imdb_lightning.recipes -->"
BRANCH = "nb_logistic"  # the baseline whose logit stands beside the recurrent net's


class NotOurs(Exception):
    """A file of the page's name that somebody else wrote."""


@dataclass
class Line:
    """A row with all that the table says of it. Accuracies are fractions 0..1."""

    row: Row
    interval: tuple[float, float]  # of the accuracy on test, over seeds and reviews
    unseen: float  # accuracy on test without the reviews that stand in train or unsupervised too
    by_length: list[float]
    error: float | None  # of calibration, after the temperature that val tells
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def val(self) -> float | None:
        """None where val was trained on, and tells nothing."""
        return None if self.row.refit else self.row.val_accuracy

    @property
    def accuracy(self) -> float:
        return float(self.row.right_SN.mean())

    @property
    def sd(self) -> float | None:
        values = self.row.right_SN.mean(1)
        return float(values.std(ddof=1)) if len(values) > 1 else None


@dataclass
class Reviews:
    """Of the test split: how long they are, and which stand elsewhere too."""

    words_N: np.ndarray
    seen_N: np.ndarray
    counts: dict[str, int]


def write(found: Found, path: str | None, folder: Path, command: str) -> list[Path]:
    """recipes.md and its figure. Raises NotOurs, or DataError where the reviews are not here."""
    page, plot = folder / "recipes.md", folder / "recipes_plots" / "ladder.svg"
    if page.exists() and not page.read_text("utf-8", "replace").startswith(MARK):
        raise NotOurs(f"{page}: not written by this command; move it away or give --output")
    reviews = read(path, found.fingerprint)
    content = contents(found, reviews)
    plot.parent.mkdir(parents=True, exist_ok=True)
    groups = {
        "one recurrent net": content["ladder"],
        "several models": content["others"],
        "without recurrence": content["baselines"],
    }
    durable.write(plot, figure(groups).encode())
    text = environment().get_template("recipes.md.j2").render(**content, command=command, mark=MARK)
    durable.write(page, text.encode())
    return [page, plot]


def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("imdb_lightning.recipes"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["acc"] = lambda x: "" if x is None else f"{100 * x:.2f}"
    made.filters["mib"] = lambda x: "" if x is None else f"{x / 2**20:,.0f}"
    made.filters["points"] = lambda x: "" if x is None else f"{100 * x:+.2f}"
    made.filters["p"] = lambda x: "" if x is None else ("< 0.0001" if x < 1e-4 else f"{x:.4f}")
    made.filters["number"] = lambda x: "" if x is None else f"{x:,.0f}"
    return made


def read(path: str | None, fingerprint: str | None) -> Reviews:
    """Raises DataError where these are not the reviews of the runs.

    Two texts are one where they differ in case, line breaks, punctuation and blanks alone."""
    copy = sources.find(path, unsupervised=True)
    if sources.fingerprint(copy) != fingerprint:
        raise sources.DataError(f"{copy}: other reviews than those of the runs")
    official = sources.load(copy, unsupervised=True)
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
    return Reviews(words, seen, counts)


def bare(text: str) -> str:
    return " ".join(re.sub(r"<br />|[\W_]", " ", text.lower()).split())


def contents(found: Found, reviews: Reviews) -> dict[str, Any]:
    """All that the template shows."""
    rungs = [*found.rungs.values()]
    rows = {**found.baselines, **found.rungs}
    made = combinations(found)
    lines = {row.name: line(row, reviews) for row in [*rows.values(), *made]}
    for one in lines.values():
        below = rows.get(one.row.below or "")
        if below is not None:
            compared_with = against(one.row, below)
            if compared_with is not None:
                one.difference, one.difference_interval, one.p = compared_with
    beside = beside_the_branch(found, lines)
    compared = [one for one in [*lines.values(), *beside] if one.p is not None]
    for one, p in zip(compared, statistics.holm([c.p or 0.0 for c in compared]), strict=True):
        one.p_holm = p
    every = [run for row in rows.values() for run in row.metrics]
    return {
        "ladder": [lines[row.name] for row in rungs],
        "not_better": [
            one
            for one in (lines[row.name] for row in rungs)
            if one.difference is not None and (one.difference < 0 or (one.p_holm or 0) > 0.05)
        ],
        "baselines": [lines[name] for name in found.baselines],
        "beside": beside,
        "others": [lines[row.name] for row in made],
        "lengths": spans(),
        "length_counts": [int(group.sum()) for group in groups(reviews.words_N)],
        "counts": reviews.counts,
        "reviews": len(reviews.words_N),
        "val_reviews": len(rungs[0].val[0].index),
        "seen": int(reviews.seen_N.sum()),
        "devices": sorted({hardware(run) for run in every}),
        "commits": sorted({str(run["git"]) for run in every if run.get("git")}),
    }


def hardware(run: Mapping[str, Any]) -> str:
    """Older runs do not tell the processor."""
    return ", ".join(run[name] for name in ("processor", "device") if name in run)


def beside_the_branch(found: Found, lines: Mapping[str, Line]) -> list[Line]:
    """Each rung that is one net, compared with the NB branch that has read as many labels."""
    made = []
    for row in found.rungs.values():
        branch = found.baselines.get(f"{BRANCH}_refit" if row.refit else BRANCH)
        compared_with = branch and against(row, replace(branch, seeds=[-1]))  # with each run
        if branch and compared_with:
            one = replace(lines[row.name], row=replace(row, below=branch.name))
            one.difference, one.difference_interval, one.p = compared_with
            made.append(one)
    return made


def combinations(found: Found) -> list[Row]:
    """Of the rungs that have a refit, the best on val of each branch, and its refit.

    Each beside the NB branch, as an ensemble, and both. Where no rung has a refit, of all rungs.
    """
    chosen = [row for row in found.rungs.values() if not row.refit]
    refits = {ladder()[row.name].below for row in found.rungs.values() if row.refit}
    chosen = [row for row in chosen if row.name in refits] or chosen
    branch, branch_refit = (found.baselines.get(name) for name in (BRANCH, f"{BRANCH}_refit"))
    made = []
    for title, rows in (
        ("labelled reviews alone", [row for row in chosen if not row.read_unlabelled]),
        ("unlabelled reviews too", [row for row in chosen if row.read_unlabelled]),
    ):
        if not rows:
            continue
        best = max(rows, key=lambda row: row.val_accuracy)
        made += together(best, branch, title)
        for row in found.rungs.values():
            seeds = [seed for seed in row.seeds if seed in best.seeds]
            if row.refit and ladder()[row.name].below == best.name and seeds:
                again = branch_refit if branch is not None else None
                made += together(row.only(seeds), again, title, best.only(seeds), branch)
    return made


def together(
    row: Row,
    branch: Row | None,
    title: str,
    known: Row | None = None,
    known_branch: Row | None = None,
) -> list[Row]:
    """`known`: what the row and the branch are refits of."""
    made = []
    several = len(row.seeds) > 1
    on = (known, known_branch) if known is not None and known_branch is not None else None
    if several:
        what = f"{title}: mean logit of {len(row.seeds)} seeds"
        one = ensemble(row, f"{row.name}, ensemble", what, known)
        made.append(one)
    if branch is not None:
        what = f"{title}: its logit beside {branch.name}'s, weighted on val"
        made.append(beside(row, branch, f"{row.name} + {branch.name}", what, on))
        if several:
            if known is not None and known_branch is not None:
                on = (ensemble(known, "", ""), known_branch)
            what = f"{title}: the ensemble's logit beside {branch.name}'s, weighted on val"
            both = beside(one, branch, f"{one.name} + {branch.name}", what, on)
            both.below = row.name
            made.append(both)
    return made


def line(row: Row, reviews: Reviews) -> Line:
    right_SN = row.right_SN
    errors = [
        statistics.calibration_error(
            test.logit / statistics.temperature(val.logit, val.label), test.label
        )
        for val, test in zip(row.val, row.test, strict=True)
        if not row.refit  # it has read val, which tells it no temperature
    ]
    return Line(
        row,
        statistics.paired_interval(right_SN.astype(np.int8)),
        float(right_SN[:, ~reviews.seen_N].mean()),
        [float(right_SN[:, group].mean()) for group in groups(reviews.words_N)],
        float(np.mean(errors)) if errors else None,
    )


def groups(words_N: np.ndarray) -> list[np.ndarray]:
    ends = (0, *LENGTHS, np.inf)
    return [(words_N > a) & (words_N <= b) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def spans() -> list[str]:
    inner = [f"{a + 1}-{b}" for a, b in zip((0, *LENGTHS[:-1]), LENGTHS, strict=True)]
    return [*inner, f"over {LENGTHS[-1]}"]


def figure(groups: Mapping[str, Sequence[Line]]) -> str:
    """Accuracy on test by the seconds that one core would take, with intervals."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "recipes"}):
        drawn, axes = panel("", "seconds of one core, all told", "test accuracy, %")
        drawn.set_size_inches(7, 6)
        points = []
        for (name, some), mark, color in zip(groups.items(), "o^s", LINES, strict=False):
            for one in some:
                seconds, percent = one.row.core_seconds, 100 * one.accuracy
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
    """Each name beside its point, as near as no other name and no other point is in its way."""
    drawn.draw_without_rendering()  # the names are measured in the axes' final place
    dots = axes.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in dots]
    legend = axes.get_legend()
    taken += [] if legend is None else [legend.get_window_extent()]
    places = [*product(sorted(range(-160, 161, 4), key=abs), ("left", "right"))]
    for point in sorted(points, key=lambda point: -point[1]):
        for place in places:
            name = write_name(axes, *point, *place)
            name.get_window_extent()  # puts it where it belongs
            box = Text.get_window_extent(name)  # without its line
            inside = all(axes.bbox.contains(*corner) for corner in box.corners())
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            name.remove()
        else:
            write_name(axes, *point, *places[0])  # better over another name than without one


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
