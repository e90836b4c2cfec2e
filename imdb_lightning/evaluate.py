"""Evaluate a model on a split of its data, or on a file of labelled reviews.

python -m imdb_lightning.evaluate RUN
python -m imdb_lightning.evaluate RUN --split val --data PATH
python -m imdb_lightning.evaluate RUN --file reviews.csv

The file has columns text and label (0 or negative, 1 or positive).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cli
from .config.text import printable
from .data.files import InputError, read_labelled
from .data.labels import LABELS


if TYPE_CHECKING:
    from .inference import Predictor

MAX_SHOWN = 20  # misclassified reviews
WIDTH = 100  # characters of each


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, or 2 if the model or the reviews cannot be read."""
    arguments = (p := parser()).parse_args(argv)
    from .data.sources import DataError
    from .data.split import reviews_of_split
    from .inference import LoadError, load  # late: torch takes seconds to import
    from .runtime import contention, process

    process.configure()
    try:
        model = load(arguments.run, arguments.trust)
        if arguments.file:
            texts, labels = read_labelled(Path(arguments.file))
            name = arguments.file
        else:
            texts, labels = reviews_of_split(model.data, arguments.split, arguments.data)
            name = f"{model.data['name']} {arguments.split}"
        with contention.yield_to_others():
            result = evaluate(model, texts, labels, arguments.batch_size)
    except (LoadError, InputError, DataError) as error:
        p.fail(str(error))
    if arguments.json:
        print(json.dumps({"model": str(model.path), "reviews": name, **result}))
    else:
        print(*map(printable, report(name, result)), sep="\n")


def evaluate(
    model: Predictor, texts: Sequence[str], label_N: np.ndarray, batch_size: int = 256
) -> dict[str, Any]:
    """Accuracies, F1, AUC and ECE are fractions 0..1, losses cross entropy in nats per review."""
    from .metrics.calibration import calibration_error, nll
    from .metrics.scores import auc, f1, length_groups, proportion_interval

    logit_N = model.logits(texts, batch_size).astype(float)
    correct_N = (logit_N > 0) == label_N
    words_N = np.array([len(text.split()) for text in texts])
    tempered_N = logit_N / model.temperature
    doubt = np.argsort(np.where(correct_N, np.inf, -np.abs(logit_N)), kind="stable")
    wrong = [int(row) for row in doubt[:MAX_SHOWN] if not correct_N[row]]
    confusion = {
        f"{actual} as {predicted}": int(
            (
                (label_N == (actual == "positive")) & ((logit_N > 0) == (predicted == "positive"))
            ).sum()
        )
        for actual in LABELS
        for predicted in LABELS
    }
    both = 0 < label_N.sum() < len(label_N)
    return {
        "count": len(texts),
        "accuracy": float(correct_N.mean()),
        "accuracy_interval": proportion_interval(int(correct_N.sum()), len(correct_N)),
        "loss": nll(logit_N, label_N),
        "f1": f1(logit_N > 0, label_N),
        "auc": auc(logit_N, label_N) if both else None,
        "ece": calibration_error(logit_N, label_N),
        "temperature": model.temperature,
        "loss_with_temperature": nll(tempered_N, label_N),
        "ece_with_temperature": calibration_error(tempered_N, label_N),
        "confusion": confusion,
        "by_words": [
            {
                "over": low,
                "to": high,
                "count": int(inside_N.sum()),
                "accuracy": float(correct_N[inside_N].mean()),
            }
            for low, high, inside_N in length_groups(words_N)
            if inside_N.any()
        ],
        "wrong": [
            {
                "index": row,
                "label": LABELS[int(label_N[row])],
                "predicted": LABELS[int(logit_N[row] > 0)],
                "probability": round(model.prediction(logit_N[row]).probability, 6),
                "text": texts[row],
            }
            for row in wrong
        ],
    }


def report(name: str, result: dict[str, Any]) -> list[str]:
    """Lines for the terminal."""
    from .metrics.scores import length_label

    low, high = result["accuracy_interval"]
    auc = "-" if result["auc"] is None else f"{result['auc']:.4f}"
    lines = [
        f"{name}: {result['count']:,} reviews",
        f"accuracy     {result['accuracy']:.4f}  (95 % interval {low:.4f} to {high:.4f})",
        f"F1           {result['f1']:.4f}",
        f"AUC          {auc}",
        f"loss         {result['loss']:.4f}  (cross entropy; with temperature "
        f"{result['temperature']:.3g} {result['loss_with_temperature']:.4f})",
        f"ECE          {result['ece']:.4f}  ({result['ece_with_temperature']:.4f} with it)",
        "",
        "confusion    predicted negative  predicted positive",
    ]
    for actual in LABELS:
        counts = [result["confusion"][f"{actual} as {predicted}"] for predicted in LABELS]
        lines.append(f"{actual:11}  {counts[0]:13,}  {counts[1]:13,}")
    lines += ["", "words        reviews  accuracy"]
    for group in result["by_words"]:
        span = length_label(group["over"], group["to"])
        lines.append(f"{span:11}  {group['count']:7,}  {group['accuracy']:.4f}")
    if result["wrong"]:
        lines += ["", "the most confidently wrong"]
    for wrong in result["wrong"]:
        text = " ".join(wrong["text"].split())
        text = text if len(text) <= WIDTH else f"{text[:WIDTH]}..."
        lines.append(
            f"{wrong['index']:6}  label {wrong['label']}, predicted {wrong['predicted']} "
            f"(p={wrong['probability']:.3f})  {text}"
        )
    return lines


def parser() -> cli.Parser:
    p = cli.Parser("evaluate", __doc__)
    p.add_model()
    p.add_data()
    which = p.add_mutually_exclusive_group()
    which.add_argument("--split", choices=["test", "val"], default="test", help="default: test")
    which.add_argument("--file", help="labelled reviews: .csv, .jsonl, .parquet")
    p.add_argument("--json", action="store_true", help="one JSON object")
    p.add_batch_size()
    return p


if __name__ == "__main__":
    main()
