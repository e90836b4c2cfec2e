"""MODEL_CARD.md: data, metrics, configuration and limits of an exported model."""

from __future__ import annotations

from typing import Any

from ..config.text import markdown
from ..inference import Predictor


def text(model: Predictor) -> str:
    """The card, in Markdown."""
    metrics, options = model.metrics, model.config["model"]
    data: dict[str, Any] = metrics.get("data") or {}
    reviews: dict[str, int] = data.get("reviews") or {}
    splits = ("test",) if metrics.get("train_on_val") else ("val", "test")
    lines = [
        f"# {options['name']}, a sentiment classifier of film reviews",
        "",
        "From an English film review to two logits, negative and positive.",
        "",
        "## Data",
        "",
        f"- {metrics.get('dataset', 'unknown')}: "
        + (", ".join(f"{count:,} {name}" for name, count in reviews.items()) or "sizes unknown"),
        f"- fingerprint of the files: {data.get('fingerprint', 'none')}",
        f"- duplicate reviews: {data.get('duplicates', 'unknown')}",
        "",
        "## Metrics",
        "",
        "| split | accuracy | 95 % interval | loss (nats per review) |",
        "|---|---|---|---|",
        *(row(metrics, split, reviews) for split in splits if f"{split}/acc" in metrics),
        "",
        f"One run, seed {metrics.get('seed', 'unknown')}; the interval is over reviews, not over "
        "seeds."
        + (
            " Trained on val too, after model selection; therefore there is no temperature."
            if metrics.get("train_on_val")
            else f" Temperature for probabilities, fitted on val: {model.temperature:.4g}."
        ),
        "",
        "## Configuration",
        "",
        *(f"- {key}: {value}" for key, value in sorted(options.items())),
        *(f"- {key}: {model.data[key]}" for key in ("vocab_size", "max_length", "truncation")),
        f"- parameters: {metrics.get('parameters', 'unknown')}",
        "",
        "## Versions",
        "",
        *(f"- {name}: {number}" for name, number in (metrics.get("versions") or {}).items()),
        f"- git: {metrics.get('git')}",
        "",
        "## Limits",
        "",
        f"- It reads {model.data['max_length']} tokens of a review ({model.data['truncation']}).",
        "- It knows only the most frequent words of the reviews that it was trained on.",
        "- Trained on film reviews of one site, in English, with clear verdicts. On other texts "
        "its predictions mean little, yet it has one for every text, even an empty one.",
    ]
    if metrics.get("dataset") == "synthetic":
        lines.append("- **Trained on synthetic reviews: it knows nothing about real ones.**")
    return "\n".join(map(markdown, lines)) + "\n"


def row(metrics: dict[str, Any], split: str, reviews: dict[str, int]) -> str:
    from ..metrics.scores import proportion_interval

    accuracy, count = metrics[f"{split}/acc"], reviews.get(split)
    interval = ""
    if count:
        low, high = proportion_interval(round(accuracy * count), count)
        interval = f"{low:.4f} to {high:.4f}"
    return f"| {split} | {accuracy:.4f} | {interval} | {metrics[f'{split}/loss']:.4f} |"
