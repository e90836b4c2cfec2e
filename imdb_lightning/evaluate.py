"""Evaluate a run on a split of its data, or on a file of labelled reviews.

python -m imdb_lightning.evaluate RUN
python -m imdb_lightning.evaluate RUN --split val data.path=PATH
python -m imdb_lightning.evaluate RUN --file reviews.csv

The file has columns text and label (0 or negative, 1 or positive).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .predict import positive
from .reviews import InputError, read_labelled


if TYPE_CHECKING:
    from .trained import Trained

LENGTHS = (50, 100, 200, 400, 800)  # words: the upper ends of the groups
WRONG = 20  # reviews shown
WIDTH = 100  # characters of a review shown


def main() -> None:
    """Exits with 0, or 2 where the model or the reviews cannot be read."""
    arguments = parser().parse_args()
    from . import process
    from .data.sources import DataError
    from .trained import LoadError, load

    process.prepare()
    try:
        model = load(arguments.run, arguments.trust)
        if arguments.file:
            texts, labels = read_labelled(Path(arguments.file))
            name = arguments.file
        else:
            texts, labels = split(model, arguments.split, arguments.data)
            name = f"{model.data['name']} {arguments.split}"
        result = evaluate(model, texts, labels, arguments.batch_size)
    except (LoadError, InputError, DataError) as error:
        leave(str(error))
    if arguments.json:
        print(json.dumps({"model": str(model.path), "reviews": name, **result}))
    else:
        print(*report(name, result), sep="\n")


def split(model: Trained, name: str, overrides: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The texts and labels of "val" or "test" as the run saw them. Raises DataError, LoadError."""
    from .data import sources, synthetic
    from .data.module import hold_out
    from .trained import LoadError

    data = model.data
    path = data.get("path") or os.environ.get("IMDB_DATA")
    for text in overrides:
        key, _, value = text.partition("=")
        if key != "data.path" or not value:
            raise LoadError(f"{text}: only data.path=PATH can be given")
        path = value
    if data["name"] == "synthetic":
        sizes = (data["train_size"] + data["val_size"], data["test_size"])
        official = synthetic.corpus(*sizes, data["distance"], data["max_length"], data["seed"])
    else:
        official = sources.load(sources.find(path))
    if name == "test":
        return official["test"].texts, official["test"].labels.astype(bool)
    train = official["train"]
    _, rows = hold_out(train.labels, data["val_size"], data["seed"])
    return [train.texts[row] for row in rows], train.labels[rows].astype(bool)


def evaluate(
    model: Trained, texts: Sequence[str], label_N: np.ndarray, batch_size: int = 256
) -> dict[str, Any]:
    """Accuracies, F1, AUC and ECE are fractions 0..1, losses cross entropy in nats per review."""
    from . import statistics

    logit_N = model.logits(texts, batch_size).astype(float)
    right_N = (logit_N > 0) == label_N
    words_N = np.array([len(text.split()) for text in texts])
    tempered_N = logit_N / model.temperature
    doubt = np.argsort(np.where(right_N, np.inf, -np.abs(logit_N)), kind="stable")
    wrong = [int(row) for row in doubt[:WRONG] if not right_N[row]]
    confusion = {
        f"{actual} as {told}": int(
            ((label_N == (actual == "positive")) & ((logit_N > 0) == (told == "positive"))).sum()
        )
        for actual in ("negative", "positive")
        for told in ("negative", "positive")
    }
    both = 0 < label_N.sum() < len(label_N)
    return {
        "count": len(texts),
        "accuracy": float(right_N.mean()),
        "accuracy_interval": statistics.proportion_interval(int(right_N.sum()), len(right_N)),
        "loss": statistics.nll(logit_N, label_N),
        "f1": statistics.f1(logit_N > 0, label_N),
        "auc": statistics.auc(logit_N, label_N) if both else None,
        "ece": statistics.calibration_error(logit_N, label_N),
        "temperature": model.temperature,
        "loss_with_temperature": statistics.nll(tempered_N, label_N),
        "ece_with_temperature": statistics.calibration_error(tempered_N, label_N),
        "confusion": confusion,
        "by_words": by_length(words_N, right_N),
        "wrong": [
            {
                "index": row,
                "label": "positive" if label_N[row] else "negative",
                "probability": round(model.prediction(logit_N[row]).probability, 6),
                "text": texts[row],
            }
            for row in wrong
        ],
    }


def by_length(words_N: np.ndarray, right_N: np.ndarray) -> list[dict[str, Any]]:
    groups = []
    for low, high in zip((0, *LENGTHS), (*LENGTHS, None), strict=True):
        inside_N = (words_N > low) & (words_N <= (high or np.inf)) | ((low == 0) & (words_N == 0))
        if inside_N.any():
            accuracy = float(right_N[inside_N].mean())
            groups.append(
                {"over": low, "to": high, "count": int(inside_N.sum()), "accuracy": accuracy}
            )
    return groups


def report(name: str, result: dict[str, Any]) -> list[str]:
    """The same for people."""
    low, high = result["accuracy_interval"]
    auc = "-" if result["auc"] is None else f"{result['auc']:.4f}"
    lines = [
        f"{name}: {result['count']:,} reviews",
        f"accuracy     {result['accuracy']:.4f}  (95 % interval {low:.4f} to {high:.4f})",
        f"F1           {result['f1']:.4f}",
        f"AUC          {auc}",
        f"loss         {result['loss']:.4f}  ({result['loss_with_temperature']:.4f} with "
        f"temperature {result['temperature']:.3g})",
        f"ECE          {result['ece']:.4f}  ({result['ece_with_temperature']:.4f} with it)",
        "",
        "confusion    told negative  told positive",
    ]
    for actual in ("negative", "positive"):
        counts = [result["confusion"][f"{actual} as {told}"] for told in ("negative", "positive")]
        lines.append(f"{actual:11}  {counts[0]:13,}  {counts[1]:13,}")
    lines += ["", "words        reviews  accuracy"]
    for group in result["by_words"]:
        span = f"{group['over'] + 1}-{group['to']}" if group["to"] else f"over {group['over']}"
        lines.append(f"{span:11}  {group['count']:7,}  {group['accuracy']:.4f}")
    if result["wrong"]:
        lines += ["", "the most confidently wrong"]
    for wrong in result["wrong"]:
        text = " ".join(wrong["text"].split())
        text = text if len(text) <= WIDTH else f"{text[:WIDTH]}..."
        lines.append(
            f"{wrong['index']:6}  {wrong['label']}, not {wrong['probability']:.4f}  {text}"
        )
    return lines


def leave(line: str) -> NoReturn:
    print(f"imdb_lightning.evaluate: {line}", file=sys.stderr)
    sys.exit(2)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imdb_lightning.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run, one of its checkpoints, or an export")
    parser.add_argument("data", metavar="data.path=PATH", nargs="*", help="where the reviews are")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--split", choices=["test", "val"], default="test", help="default: test")
    which.add_argument("--file", help="labelled reviews: .csv, .jsonl, .parquet")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--batch-size", type=positive, default=256, help="reviews at a time (256)")
    parser.add_argument("--trust", action="store_true", help="run a cell that is not ours")
    return parser


if __name__ == "__main__":
    main()
