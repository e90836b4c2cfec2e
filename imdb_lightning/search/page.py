"""The page of a search: the best trial, the history, what mattered, and every trial."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from optuna.trial import FrozenTrial, TrialState

from ..config.space import Dimension
from ..report.figures import FAINT, INK, OURS, PUBLISHED, STYLE, as_file, panel, svg
from ..report.templates import refuse_foreign, render
from ..runs import storage
from ..runs.run import Run
from .best import write_experiment
from .study import (
    DIVERGED,
    MARK,
    MARKS,
    REASON,
    RUN,
    last_attempts,
    open_study,
    read_space,
    val_accuracies,
)


ENOUGH = 10  # trials, for the importance to mean something


@dataclass
class Trial:
    """A trial on the page."""

    number: int  # from 1, in the order of the proposals
    overrides: list[str]  # of what is searched
    values: dict[str, str]  # by the key's short name
    state: str  # done, pruned, diverged, failed or running
    accuracy: float | None  # val/acc, 0..1
    epochs: dict[int, float]  # val/acc
    seconds: float | None
    path: Path
    reason: str
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return " ".join(self.overrides)


@dataclass
class Results:
    """What the page shows of one search."""

    folder: Path
    names: dict[str, str]  # {key: its short name}
    space: list[Dimension]
    trials: list[Trial]
    importance: dict[str, float]  # by short name, the largest first; empty with too few trials

    @property
    def done(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "done"]

    @property
    def best(self) -> Trial | None:
        """The one with the highest val accuracy; of equals the first."""
        return max(self.done, key=lambda trial: trial.accuracy or 0.0, default=None)

    @property
    def ranked(self) -> list[Trial]:
        """Finished ones by their val accuracy, then the others."""
        order = ["done", "pruned", "running", "diverged", "failed"]
        return sorted(self.trials, key=lambda t: (order.index(t.state), -(t.accuracy or 0.0)))

    @property
    def counts(self) -> str:
        states = [trial.state for trial in self.trials]
        return ", ".join(
            f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states))
        )


def read(folder: Path) -> Results:
    """The results so far. Raises OSError, and ValueError if there is no search in `folder`."""
    study = open_study(folder)
    space = read_space(folder)
    names = short_names([one.name for one in space])
    trials = [
        trial_of(number, trial, folder, space, names)
        for number, trial in enumerate(last_attempts(study), 1)
    ]
    found = Results(folder, names, space, trials, {})
    if len(found.done) >= ENOUGH:
        weights = importance(study)
        found.importance = {names[key]: weight for key, weight in weights.items() if key in names}
    return found


def trial_of(
    number: int,
    trial: FrozenTrial,
    folder: Path,
    space: Sequence[Dimension],
    names: Mapping[str, str],
) -> Trial:
    name = str(trial.user_attrs.get(RUN, ""))
    path = folder / Path(name).name
    run = Run(path)
    try:
        metrics = run.metrics if name else {}
    except (OSError, ValueError):  # removed since
        metrics = {}
    states = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned"}
    state = states.get(trial.state, "running")
    if trial.state == TrialState.FAIL:
        state = "diverged" if trial.user_attrs.get(DIVERGED) else "failed"
    values = {
        names[one.name]: str(trial.params[one.name])
        if one.choices
        else one.text(trial.params[one.name])
        for one in space
    }
    overrides = [f"{one.name}={values[names[one.name]]}" for one in space]
    epochs = dict(trial.intermediate_values) or val_accuracies(run)
    accuracy = trial.value if state in ("done", "pruned") else None
    seconds, reason = metrics.get("seconds"), str(trial.user_attrs.get(REASON, ""))
    return Trial(number, overrides, values, state, accuracy, epochs, seconds, path, reason, metrics)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or all of it where two have the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)
    }


def importance(study: optuna.Study) -> dict[str, float]:
    """The importance of each key, of all together 1: PED-ANOVA, Watanabe et al. 2023."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(weight) for key, weight in found.items() if math.isfinite(weight)}


def summary(folder: Path) -> Iterator[str]:
    """Lines for the end of a search; writes the page."""
    found = read(folder)
    yield f"{len(found.trials)} trials in {folder}: {found.counts}"
    failed = [trial for trial in found.trials if trial.state == "failed"]
    for trial in failed:
        yield f"  {trial.label}  {trial.reason}"
    if failed:
        yield "see train.log in a run's directory, or console.log if there is one"
    if failed or any(trial.state == "running" for trial in found.trials):
        yield "rerun the same command to finish"
    if found.best is not None:
        yield f"best val accuracy {found.best.accuracy:.4f}: {found.best.label}"
        yield from map(str, write(found, folder, html_only=True))


def write(found: Results, folder: Path, command: str = "", html_only: bool = False) -> list[Path]:
    """search.html; with its plots in search_plots/ also search.md. Returns what a user opens.

    Raises ForeignFileError and writes nothing.
    """
    pages = [folder / "search.html"]
    if not html_only:
        pages.insert(0, folder / "search.md")
    for page in pages:
        refuse_foreign(page, *MARKS)
    plots = figures(found)
    experiment = write_experiment(found.folder, found.best.path) if found.best else None
    content = {
        "found": found,
        "plots": plots,
        "mark": MARK,
        "command": command,
        "train_best": train_best(found, experiment),
    }
    folder.mkdir(parents=True, exist_ok=True)
    if not html_only:
        (folder / "search_plots").mkdir(exist_ok=True)
        for name, plot in plots.items():
            storage.atomic_write(folder / "search_plots" / f"{name}.svg", as_file(plot).encode())
    for page in pages:
        text = render("search", f"{page.name}.j2", content)
        storage.atomic_write(page, text.encode("utf-8", "replace"))
    return pages


def train_best(found: Results, experiment: Path | None) -> str:
    """The command that trains the best configuration with several seeds; empty if none does."""
    if experiment is None:
        return ""
    folder = shlex.quote(str(found.folder))
    return (
        f"python -m imdb_lightning -m --config-dir {folder} experiment={experiment.stem} "
        "seed=1,2,3,4,5"
    )


def figures(found: Results) -> dict[str, str]:
    """The plots by name, each a text of SVG."""
    plots = {"history": history(found), "epochs": epochs(found)}
    if found.importance:
        plots["importance"] = importances(found)
    plots["values"] = values(found)
    return plots


def history(found: Results) -> str:
    """val accuracy by trial, and the best so far."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panel("trials", "trial", "val accuracy", 5.5, 3.2)
        scatter(axes, found, {trial.number: trial.number for trial in found.trials})
        best, line = 0.0, []
        for trial in found.done:
            best = max(best, trial.accuracy or 0.0)
            line.append((trial.number, best))
        if line:
            line.append((found.trials[-1].number, best))
            axes.step(*zip(*line, strict=True), where="post", color=INK, lw=1, label="best so far")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        add_legend(axes)
        return svg(figure)


def add_legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:  # matplotlib warns about an empty one
        axes.legend(fontsize=6.5)


def scatter(axes: Axes, found: Results, at: Mapping[int, float]) -> None:
    """Points of the finished and the pruned trials; `at` is the abscissa by trial number."""
    for state, color, marker in (("done", OURS, "o"), ("pruned", FAINT, "x")):
        shown = [t for t in found.trials if t.state == state and t.accuracy is not None]
        if shown:
            axes.scatter(
                [at[t.number] for t in shown],
                [t.accuracy or 0.0 for t in shown],
                s=14,
                color=color,
                marker=marker,
                label=state,
            )


def epochs(found: Results) -> str:
    """val accuracy by epoch, a line for each trial."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panel("learning curves", "epoch", "val accuracy", 5.5, 3.2)
        for trial in found.trials:
            if trial.epochs:
                color = {"done": OURS, "pruned": FAINT}.get(trial.state, PUBLISHED)
                is_best = trial is found.best
                axes.plot(
                    [*trial.epochs],
                    [*trial.epochs.values()],
                    color=INK if is_best else color,
                    lw=1.6 if is_best else 0.8,
                    marker="x" if trial.state == "pruned" else None,
                    markevery=[-1],
                    markersize=4,
                    zorder=3 if is_best else 2,
                    label="best" if is_best else None,
                )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        add_legend(axes)
        return svg(figure)


def importances(found: Results) -> str:
    """A bar for each key."""
    with matplotlib.rc_context(STYLE):
        height = 0.8 + 0.25 * len(found.importance)
        figure, axes = panel("importance for val accuracy", "share", "", 5.5, height)
        names = [*found.importance][::-1]
        axes.barh(names, [found.importance[name] for name in names], color=OURS, height=0.6)
        axes.set_xlim(0, 1)
        return svg(figure)


def values(found: Results) -> str:
    """val accuracy against the values of each key."""
    columns = min(3, len(found.space))
    rows = -(-len(found.space) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * columns, 2.1 * rows), layout="tight")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, one in zip(panels.flat, found.space, strict=False):
            name = found.names[one.name]
            axes.set_title(name)
            axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
            if one.choices:
                at = {t.number: float(one.choices.index(t.values[name])) for t in found.trials}
                axes.set_xticks(range(len(one.choices)), one.choices)
                axes.set_xlim(-0.5, len(one.choices) - 0.5)
            else:
                at = {t.number: float(t.values[name]) for t in found.trials}
                if one.log:
                    axes.set_xscale("log")
                    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
                    axes.xaxis.set_minor_formatter(NullFormatter())
            scatter(axes, found, at)
        for axes in panels[:, 0]:
            axes.set_ylabel("val accuracy")
        for axes in [*panels.flat][len(found.space) :]:
            axes.set_visible(False)
        return svg(figure)
