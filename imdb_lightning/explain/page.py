"""A reading as one HTML page, and as text for a terminal."""

from __future__ import annotations

import base64
import io
from typing import Any

import jinja2
import matplotlib.cm
import matplotlib.image
import numpy as np

from ..trained import Trained
from .reading import Gate, Reading


COLUMN = (15, 44)  # pixels of a token in trajectory and heat maps: in a long review, and at most
WIDTH = 900  # pixels that a short review fills
ROW = 3  # pixels of a unit in a heat map
HEIGHT = 160  # pixels of the trajectory


def html(model: Trained, text: str, reading: Reading, form: bool = False) -> str:
    """One self-contained page: no scripts, nothing fetched. `form` asks for another review."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imdb_lightning.explain"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("reading.html.j2").render(
        context(model, text, reading), form=form
    )


def context(model: Trained, text: str, reading: Reading) -> dict[str, Any]:
    largest = float(np.abs(reading.contribution_T).max()) or 1.0
    column = min(max(WIDTH // len(reading.tokens), COLUMN[0]), COLUMN[1])
    width = column * len(reading.tokens)
    points = [(column * (t + 0.5), HEIGHT * (1 - p)) for t, p in enumerate(reading.probability_T)]
    return {
        "text": text,
        "model": model.config["model"],
        "prediction": model.prediction(reading.logit),
        "reading": reading,
        "tokens": [
            {
                "text": token,
                "known": known,
                "contribution": float(contribution),
                "probability": float(probability),
                "share": abs(float(contribution)) / largest,
            }
            for token, known, contribution, probability in zip(
                reading.tokens,
                reading.known,
                reading.contribution_T,
                reading.probability_T,
                strict=True,
            )
        ],
        "width": width,
        "column": column,
        "height": HEIGHT,
        "line": " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        "points": points,
        "gates": [
            (name, [(gate, heat_map(gate), ROW * gate.values_TH.shape[1]) for gate in gates])
            for name, gates in reading.gates
        ],
    }


def heat_map(gate: Gate) -> str:
    """One pixel for each token and unit, as a data: address of a PNG."""
    colors = matplotlib.cm.ScalarMappable(cmap="viridis" if gate.low == 0 else "RdBu_r")
    colors.set_clim(gate.low, gate.high)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, colors.to_rgba(gate.values_TH.T, bytes=True), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def lines(model: Trained, reading: Reading) -> list[str]:
    """The same for a terminal: the verdict, and each token with its bar."""
    prediction = model.prediction(reading.logit)
    largest = float(np.abs(reading.contribution_T).max()) or 1.0
    width = max(map(len, reading.tokens))
    made = [
        f"{prediction.label} {prediction.probability:.4f}",
        "",
        f"{'token':{width}}  P(positive)  contribution",
    ]
    for token, p, c in zip(
        reading.tokens, reading.probability_T, reading.contribution_T, strict=True
    ):
        bar = ("+" if c > 0 else "-") * round(20 * abs(c) / largest)
        made.append(f"{token:{width}}  {p:11.4f}  {c:+12.3f}  {bar}")
    made += [
        "",
        f"contributions: {reading.contribution_T.sum():+.3f} from {reading.logit_of_nothing:+.3f} "
        f"with nothing to {reading.logit:+.3f}, gap {reading.gap:+.1g} ({reading.steps} steps)",
    ]
    for name, gates in reading.gates:
        made += ["", f"{name}: mean over units at each token"]
        for gate in gates:
            made.append(f"{gate.name:14} {spark(gate)}  {gate.equation}")
    return made


def spark(gate: Gate) -> str:
    levels = " .:-=+*#%@"
    share_T = (gate.values_TH.mean(1) - gate.low) / (gate.high - gate.low)
    return "".join(levels[int(s)] for s in (share_T * (len(levels) - 1)).round().clip(0, 9))
