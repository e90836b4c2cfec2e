"""Figures of a run, for its directory and its loggers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.labels import LABELS


if TYPE_CHECKING:
    from ..model.classifier import EvalOutput


def learning_curves(metrics: Mapping[str, Any]) -> Figure:
    """Loss and accuracy by epoch, train and val, with the test result as a line."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = metrics["epochs"]
    numbers = [epoch["epoch"] for epoch in epochs]
    titles = {"loss": "loss (nats per review)", "acc": "accuracy"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for split, style in (("train", "o--"), ("val", "o-")):
            values = [epoch[f"{split}/{name}"] for epoch in epochs]
            axes.plot(numbers, values, style, label=split, markersize=4)
        if f"test/{name}" in metrics:
            tested = metrics[f"test/{name}"]
            axes.axhline(tested, color="gray", linestyle=":", label=f"test {tested:.4g}")
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{metrics['model']} on {metrics['dataset']}, seed {metrics['seed']}")
    return figure


def confusion_matrix(test: EvalOutput) -> Figure:
    """Reviews by label and prediction."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    names = list(LABELS)
    predicted = test.logit_N > 0
    counts = [
        [int(((test.labels_N == label) & (predicted == guess)).sum()) for guess in (0, 1)]
        for label in (0, 1)
    ]
    axes.imshow(counts, cmap="Blues", vmin=0)
    largest = max(map(max, counts))
    for label in (0, 1):
        for guess in (0, 1):
            count = counts[label][guess]
            color = "white" if count > largest / 2 else "black"
            axes.text(guess, label, f"{count:,}", ha="center", va="center", color=color)
    axes.set_xticks([0, 1], names)
    axes.set_yticks([0, 1], names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(f"test accuracy {test.accuracy:.4f}")
    return figure


def precision_recall(test: EvalOutput) -> Figure:
    """Precision over recall of the positive reviews, from the surest on."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    right_N = test.labels_N[test.logit_N.argsort(descending=True)].cumsum(0)
    count_N = range(1, len(right_N) + 1)
    precision_N = [int(right) / count for right, count in zip(right_N, count_N, strict=True)]
    axes.plot((right_N / right_N[-1].clamp(min=1)).tolist(), precision_N)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    return figure


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return buffer.getvalue()
