"""The plots of a report: small ones, each a text of SVG in the colour of the text around it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..metrics.calibration import reliability_bins
from .runs import Configuration


INK = "#012345"  # stands for the colour of the text, which a page sets
OURS, PUBLISHED, FAINT = "#3b82c4", "#d9822b", "#8a8f98"  # readable on white and on black
LINES = ("#3b82c4", "#d9822b", "#3a9d5d", "#c2528b", "#8f6fd1", "#8a8f98", "#b59b1c", "#35a3a3")
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "report",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **{
        f"{part}": INK
        for part in "text.color axes.edgecolor axes.labelcolor xtick.color ytick.color".split()
    },
}


def panel(
    title: str, x: str, y: str, width: float = 3.5, height: float = 2.5
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="tight")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    return figure, axes


def learning_curve(
    configuration: Configuration, name: str, published: Mapping[str, Any] | None
) -> str:
    """`name` ("acc" or "loss") by epoch: mean and range over seeds, and the published one."""
    unit = {"acc": "accuracy", "loss": "loss (nats per review)"}[name]
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(configuration.label, "epoch", unit)
        for split, style in (("val", "-"), ("train", ":")):
            epochs, values_SE = by_epoch(configuration, f"{split}/{name}")
            axes.plot(epochs, values_SE.mean(0), style, color=OURS, label=f"ours, {split}")
            axes.fill_between(
                epochs, values_SE.min(0), values_SE.max(0), color=OURS, alpha=0.25, linewidth=0
            )
        if published:
            epochs = [epoch["epoch"] for epoch in published["epochs"]]
            for split, style, shown in (("test", "-", "held out"), ("train", ":", "train")):
                values = [epoch[f"{split}_{name}"] for epoch in published["epochs"]]
                axes.plot(epochs, values, style, color=PUBLISHED, label=f"published, {shown}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=6.5)
        return svg(figure)


def curves(configurations: Sequence[Configuration], title: str) -> str:
    """Val accuracy by epoch, a line for each configuration: mean over seeds, with their range."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(title, "epoch", "val accuracy", 5.5, 3.4)
        for configuration, color in zip(configurations, LINES, strict=False):
            epochs, values_SE = by_epoch(configuration, "val/acc")
            axes.plot(epochs, values_SE.mean(0), color=color, label=configuration.label)
            axes.fill_between(
                epochs, values_SE.min(0), values_SE.max(0), color=color, alpha=0.2, linewidth=0
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=6.5)
        return svg(figure)


def by_epoch(configuration: Configuration, name: str) -> tuple[list[int], np.ndarray]:
    """Epochs that all seeds have, and the values (S, E)."""
    runs = [result.metrics["epochs"] for result in configuration.results.values()]
    count = min(map(len, runs))
    values = [[epoch[name] for epoch in epochs[:count]] for epochs in runs]
    return [epoch["epoch"] for epoch in runs[0][:count]], np.array(values)


def memory(models: Mapping[str, Mapping[int, Configuration]]) -> str:
    """Test accuracy against distance, a line for each cell: mean over seeds, with their range."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(
            "accuracy by distance of the last decisive word",
            "distance (tokens)",
            "test accuracy",
            5.5,
            3.2,
        )
        for (name, distances), color in zip(sorted(models.items()), LINES, strict=False):
            points = sorted(distances.items())
            values = [configuration.values("test/acc") for _, configuration in points]
            means = np.array([np.mean(accuracies) for accuracies in values])
            low = means - [min(accuracies) for accuracies in values]
            high = np.array([max(accuracies) for accuracies in values]) - means
            axes.errorbar(
                [distance for distance, _ in points],
                means,
                yerr=[low.clip(0), high.clip(0)],
                marker="o",
                markersize=4,
                capsize=3,
                color=color,
                label=name,
            )
        axes.axhline(0.5, color=FAINT, linestyle=":", label="chance")
        axes.set_xscale("log")
        ticks = sorted({distance for distances in models.values() for distance in distances})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.legend(fontsize=7)
        return svg(figure)


def reliability(configuration: Configuration, temperatures: Mapping[int, float]) -> str:
    """Accuracy against confidence on test, all seeds together, before and after the temperature."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panel(configuration.label, "confidence", "accuracy", 2.6, 2.6)
        axes.plot([0.5, 1], [0.5, 1], ":", color=FAINT)
        for after, color, name in (
            (False, OURS, "as trained"),
            (True, PUBLISHED, "with temperature"),
        ):
            tests = {seed: result.splits["test"] for seed, result in configuration.results.items()}
            logits = [t.logit / temperatures[s] if after else t.logit for s, t in tests.items()]
            labels = [test.label for test in tests.values()]
            bins = reliability_bins(np.concatenate(logits), np.concatenate(labels))
            axes.plot(bins.confidence, bins.accuracy, "o-", color=color, markersize=3, label=name)
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(0.38, 1.02)
        axes.legend(fontsize=6.5)
        return svg(figure)


def svg(figure: Figure) -> str:
    """Without the head that only a file needs, and `INK` as the text's own colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def as_file(text: str) -> str:
    """The same as a standalone file: dark on white."""
    head, body = text.split(">", 1)
    return f'{head}>\n<rect width="100%" height="100%" fill="white"/>{body}'.replace(
        "currentColor", "#222222"
    )
