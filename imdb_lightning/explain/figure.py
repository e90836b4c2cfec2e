"""An explanation as one figure: learning curves, trajectory and contributions, gates."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..inference import Predictor
from .explanation import Explanation, Gate


POSITIVE, NEGATIVE, LINE = "#3a9d5d", "#c24138", "#3b82c4"


def figure(model: Predictor, explanation: Explanation) -> Figure:
    """Two columns: curves beside the trajectory, then the gates of the first layer."""
    gates = explanation.gates[0][1] if explanation.gates else []
    rows = 1 + (len(gates) + 1) // 2
    drawn = Figure(figsize=(11, 1.2 + 1.75 * rows), layout="constrained")
    axes = drawn.subplots(rows, 2, squeeze=False, height_ratios=[1.3] + [1.0] * (rows - 1))
    draw_curves(axes[0][0], model)
    draw_trajectory(axes[0][1], explanation)
    places = [ax for row in axes[1:] for ax in row]
    for ax, gate in zip(places, gates, strict=False):
        draw_gate(ax, gate, explanation.tokens)
    for ax in places[len(gates) :]:
        ax.set_axis_off()
    prediction = model.prediction(explanation.logit)
    drawn.suptitle(
        f"{model.config['model']['name']}: {prediction.label}, {100 * prediction.probability:.1f} %"
    )
    return drawn


def draw_curves(ax: Axes, model: Predictor) -> None:
    epochs = model.metrics.get("epochs") or []
    for split, style in (("train", "o:"), ("val", "o-")):
        values = [epoch[f"{split}/acc"] for epoch in epochs]
        numbers = [epoch["epoch"] for epoch in epochs]
        ax.plot(numbers, values, style, color=LINE, markersize=3, label=split)
    ax.set_title("accuracy by epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    ax.legend()


def draw_trajectory(ax: Axes, explanation: Explanation) -> None:
    """P(positive) after each token, and the token's contribution as a bar from one half."""
    positions = np.arange(len(explanation.tokens))
    contribution_T = explanation.contribution_T
    height_T = contribution_T / (2 * max(float(np.abs(contribution_T).max()), 1e-12))
    colors = [POSITIVE if value > 0 else NEGATIVE for value in contribution_T]
    ax.bar(positions, height_T, bottom=0.5, color=colors, alpha=0.6, label="contribution")
    ax.plot(positions, explanation.probability_T, "o-", color=LINE, markersize=3)
    ax.set_ylim(0, 1)
    ax.set_title("P(positive) after each token; contributions as bars")
    ax.set_xticks(positions, explanation.tokens, rotation=40, ha="right")


def draw_gate(ax: Axes, gate: Gate, tokens: list[str]) -> None:
    """A column for each token, a row for each unit."""
    color_map = "viridis" if gate.low == 0 else "RdBu_r"
    ax.imshow(
        gate.values_TH.T,
        cmap=color_map,
        vmin=gate.low,
        vmax=gate.high,
        aspect="auto",
        interpolation="nearest",
    )
    equation = f"   ${gate.equation}$" if gate.equation else ""
    ax.set_title(f"{gate.name}{equation}", fontsize=10)
    ax.set_xticks(np.arange(len(tokens)), tokens, rotation=40, ha="right", fontsize=7)
    ax.set_yticks([])


def image(model: Predictor, explanation: Explanation, kind: str) -> bytes:
    """The figure as a "png", "svg" or "pdf"."""
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcParams.update({"svg.hashsalt": "explanation", "font.size": 9})
        figure(model, explanation).savefig(buffer, format=kind, dpi=130)
    return buffer.getvalue()
