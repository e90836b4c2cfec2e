"""An explanation as one HTML page, and as text for a terminal."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib.cm
import matplotlib.image
import matplotlib.mathtext
import numpy as np
from matplotlib.font_manager import FontProperties

from ..inference import Predictor
from ..report.templates import render
from .explanation import Explanation, Gate


COLUMN = (15, 44)  # pixels of a token in trajectory and heat maps: at least and at most
WIDTH = 900  # pixels of a short review
ROW = 3  # pixels of a unit in a heat map
HEIGHT = 160  # pixels of the trajectory
GRAY = "#7a838f"  # of formulas: readable on white and on black


def html(model: Predictor, text: str, explanation: Explanation, form: bool = False) -> str:
    """One self-contained page: no scripts, nothing fetched. `form` asks for another review."""
    variables = {**context(model, text, explanation), "form": form}
    return render("explain", "explanation.html.j2", variables)


def context(model: Predictor, text: str, explanation: Explanation) -> dict[str, Any]:
    largest = float(np.abs(explanation.contribution_T).max()) or 1.0
    column = min(max(WIDTH // len(explanation.tokens), COLUMN[0]), COLUMN[1])
    width = column * len(explanation.tokens)
    points = [
        (column * (t + 0.5), HEIGHT * (1 - p)) for t, p in enumerate(explanation.probability_T)
    ]
    return {
        "text": text,
        "model": model.config["model"],
        "prediction": model.prediction(explanation.logit),
        "explanation": explanation,
        "tokens": [
            {
                "text": token,
                "in_vocab": in_vocab,
                "contribution": float(contribution),
                "probability": float(probability),
                "share": abs(float(contribution)) / largest,
            }
            for token, in_vocab, contribution, probability in zip(
                explanation.tokens,
                explanation.in_vocab,
                explanation.contribution_T,
                explanation.probability_T,
                strict=True,
            )
        ],
        "width": width,
        "column": column,
        "height": HEIGHT,
        "line": " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        "points": points,
        "gates": [
            (
                name,
                [
                    (gate, formula(gate.equation), heat_map(gate), ROW * gate.values_TH.shape[1])
                    for gate in gates
                ],
            )
            for name, gates in explanation.gates
        ],
    }


def heat_map(gate: Gate) -> str:
    """One pixel for each token and unit, as the data: URL of a PNG."""
    colors = matplotlib.cm.ScalarMappable(cmap="viridis" if gate.low == 0 else "RdBu_r")
    colors.set_clim(gate.low, gate.high)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, colors.to_rgba(gate.values_TH.T, bytes=True), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def formula(equation: str) -> str:
    """An equation in TeX, typeset: the data: URL of an SVG; empty if there is none."""
    if not equation:
        return ""
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcParams.update(
            {"svg.hashsalt": "formula", "mathtext.fontset": "cm", "savefig.transparent": True}
        )
        size = FontProperties(size=14)
        matplotlib.mathtext.math_to_image(f"${equation}$", buffer, size, 72, "svg", color=GRAY)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def lines(model: Predictor, explanation: Explanation) -> list[str]:
    """Lines for a terminal: the prediction, and each token with its bar."""
    prediction = model.prediction(explanation.logit)
    largest = float(np.abs(explanation.contribution_T).max()) or 1.0
    width = max(map(len, explanation.tokens))
    text = [
        f"{prediction.label} {prediction.probability:.4f}",
        "",
        f"{'token':{width}}  P(positive)  contribution",
    ]
    for token, p, c in zip(
        explanation.tokens, explanation.probability_T, explanation.contribution_T, strict=True
    ):
        bar = ("+" if c > 0 else "-") * round(20 * abs(c) / largest)
        text.append(f"{token:{width}}  {p:11.4f}  {c:+12.3f}  {bar}")
    text += [
        "",
        f"contributions: {explanation.contribution_T.sum():+.3f}, from a logit of "
        f"{explanation.baseline_logit:+.3f} without words to {explanation.logit:+.3f}, "
        f"error {explanation.gap:+.1g} ({explanation.steps} steps)",
    ]
    for name, gates in explanation.gates:
        text += ["", f"{name}: mean over units at each token"]
        for gate in gates:
            text.append(f"{gate.name:14} {spark(gate)}  {gate.equation}")
    return text


def spark(gate: Gate) -> str:
    levels = " .:-=+*#%@"
    share_T = (gate.values_TH.mean(1) - gate.low) / (gate.high - gate.low)
    return "".join(levels[int(s)] for s in (share_T * (len(levels) - 1)).round().clip(0, 9))
