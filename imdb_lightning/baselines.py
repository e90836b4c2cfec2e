"""What recurrent nets are to be measured by: models without recurrence, on the same splits.

python -m imdb_lightning.baselines
python -m imdb_lightning.baselines nb_logistic data.path=PATH --output outputs/baselines

nb_logistic: logistic regression on words and pairs of words, each weighted by how much more often
it stands in positive reviews than in negative ones (Wang and Manning 2012, binary counts).
tfidf_logistic: logistic regression on TF-IDF of words and pairs of words.
bag_of_embeddings: the mean of learned word embeddings, and one linear layer (PyTorch).

Each is fitted on train, with the strength of its regularisation or its epoch chosen on val, and
tested once; then fitted again on all labelled reviews with what val chose, as NAME_refit, and
tested. With --unsupervised each tells the unlabelled reviews too, which a run learns from it with
`teacher`. It takes `pip install 'imdb-lightning[baselines]'`.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np


VAL_SIZE, SPLIT_SEED = 5_000, 0  # data.val_size, data.seed
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # C of the logistic regressions
EPOCHS, SIZE, VOCABULARY, LENGTH = 10, 128, 30_000, 100_000  # of the bag of embeddings

log = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """Some reviews."""

    texts: list[str]
    labels: np.ndarray  # bool, positive
    rows: np.ndarray  # in the official split


class Fitted(NamedTuple):
    """A model that tells the logit of each text, and how large it is."""

    logits: Callable[[Sequence[str]], np.ndarray]
    parameters: int


Fit = Callable[[Labelled, Any], Fitted]


def nb_logistic(train: Labelled, strength: float) -> Fitted:
    """`strength` is scikit-learn's C."""
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", min_df=2)
    counts = words.fit_transform(train.texts).astype(np.float32)
    shares = []
    for label in (True, False):
        total = 1 + np.asarray(counts[train.labels == label].sum(0)).ravel()
        shares.append(total / total.sum())
    ratio = np.log(shares[0] / shares[1]).astype(np.float32)
    model = regression(counts.multiply(ratio).tocsr(), train.labels, strength)
    return Fitted(
        lambda texts: model.decision_function(words.transform(texts).multiply(ratio).tocsr()),
        2 * len(ratio) + 1,
    )


def tfidf_logistic(train: Labelled, strength: float) -> Fitted:
    """`strength` is scikit-learn's C."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", min_df=2, sublinear_tf=True
    )
    model = regression(words.fit_transform(train.texts), train.labels, strength)
    return Fitted(
        lambda texts: model.decision_function(words.transform(texts)),
        2 * len(words.vocabulary_) + 1,
    )


def regression(features: Any, labels: np.ndarray, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, solver="liblinear", random_state=0).fit(features, labels)


def bag_of_embeddings(train: Labelled, epochs: int) -> Fitted:
    """Adam at 2e-3, batches of 64, whole reviews."""
    import torch
    from torch import nn

    from .data.batches import ByLength, EncodedReviews, LengthBuckets
    from .data.text import Tokenizer

    torch.manual_seed(0)
    words = Tokenizer.train(train.texts, VOCABULARY, LENGTH, "head")

    def encoded(texts: Sequence[str], labels: np.ndarray) -> EncodedReviews:
        tokens, offsets = words.encode(list(texts))
        return EncodedReviews(tokens, offsets, labels.astype(np.int64), np.arange(len(labels)))

    bag = nn.EmbeddingBag(VOCABULARY + 1, SIZE, mode="mean", padding_idx=0)
    model = nn.Sequential(bag, nn.Dropout(0.5), nn.Linear(SIZE, 1))
    nn.init.normal_(bag.weight, std=0.1)
    reviews = encoded(train.texts, train.labels)
    order = LengthBuckets(reviews.lengths, 64, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    for epoch in range(epochs):
        order.set_epoch(epoch)
        for rows in order:
            tokens_BT, _, labels_B, _ = reviews.__getitems__(rows)
            logit_B = model(tokens_BT)[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logit_B, labels_B.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.inference_mode()
    def logits(texts: Sequence[str]) -> np.ndarray:
        model.eval()
        others = encoded(texts, np.zeros(len(texts)))
        logit_N = np.empty(len(texts), np.float32)
        for rows in ByLength(others.lengths, 256):
            logit_N[rows] = model(others.__getitems__(rows)[0])[:, 0].numpy()
        return logit_N

    return Fitted(logits, sum(p.numel() for p in model.parameters()))


BASELINES: dict[str, tuple[Fit, str, Sequence[Any]]] = {
    "nb_logistic": (nb_logistic, "C", STRENGTHS),
    "tfidf_logistic": (tfidf_logistic, "C", STRENGTHS),
    "bag_of_embeddings": (bag_of_embeddings, "epochs", range(1, EPOCHS + 1)),
}


def measure(
    name: str, path: str | None, output: Path, refit: bool, unsupervised: bool = False
) -> None:
    """Fit, test and write one baseline, with what val chooses or, as a `refit`, with what it chose.

    Leaves with 1 where the reviews cannot be used.
    """
    from . import process
    from .data import sources
    from .data.module import hold_out
    from .run import Run

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    process.prepare()
    try:
        copy = sources.find(path, unsupervised)
        official = sources.load(copy, unsupervised)
        rows, val_rows = hold_out(official["train"].labels, VAL_SIZE, SPLIT_SEED)
    except sources.DataError as error:
        print(f"imdb_lightning.baselines: {error}", file=sys.stderr)
        sys.exit(1)
    if refit:
        rows = np.arange(len(official["train"].labels))
    train, val = part(official["train"], rows), part(official["train"], val_rows)
    others = {
        name: part(reviews, np.arange(len(reviews.labels)))
        for name, reviews in official.items()
        if name != "train"
    }
    fit, what, choices = BASELINES[name]
    started = (time.perf_counter(), time.process_time())
    if refit:
        known = Run(output / name).metrics
        if known["data"]["fingerprint"] != sources.fingerprint(copy):
            print(
                f"imdb_lightning.baselines: {output / name} was fitted on other reviews than those "
                f"of {copy}; give another --output",
                file=sys.stderr,
            )
            sys.exit(1)
        choices = [known["chosen"]]
    best: tuple[float, Any, Fitted] | None = None
    for choice in choices:
        fitted = fit(train, choice)
        accuracy = float(((fitted.logits(val.texts) > 0) == val.labels).mean())
        if not refit:
            log.info("%s, %s=%g: val accuracy %.4f", name, what, choice, accuracy)
        if best is None or accuracy > best[0]:  # the first of equals
            best = (accuracy, choice, fitted)
    assert best is not None
    _, choice, fitted = best
    about: dict[str, Any] = {
        "model": f"{name}_refit" if refit else name,
        **({"refit": True} if refit else {}),
        "what": what,
        "chosen": choice,
        "data": {
            "source": str(copy),
            "fingerprint": sources.fingerprint(copy),
            **(
                {"unsupervised": sources.fingerprint(copy, (sources.UNSUPERVISED,))}
                if unsupervised
                else {}
            ),
        },
    }
    write(output / about["model"], about, fitted, {"val": val, **others}, started)


def times(started: tuple[float, float]) -> dict[str, float]:
    """Since then, by the clock and of all threads together."""
    wall, work = started
    return {
        "seconds": time.perf_counter() - wall,
        "core_seconds": time.process_time() - work,
    }


def part(reviews: Any, rows: np.ndarray) -> Labelled:
    return Labelled([reviews.texts[row] for row in rows], reviews.labels[rows] == 1, rows)


def write(
    folder: Path,
    about: dict[str, Any],
    fitted: Fitted,
    splits: dict[str, Labelled],
    started: tuple[float, float],
) -> None:
    """Test it; metrics.json and predictions.parquet, as a run has them.

    The unlabelled reviews stand in the latter too, with the label -1.
    """
    import torch

    from . import process, statistics
    from .data.sources import UNSUPERVISED
    from .model.classifier import Scores
    from .record import device_name
    from .run import Run
    from .train import git_commit

    scores = {}
    for name, reviews in splits.items():
        logit_N = fitted.logits(reviews.texts)
        scores[name] = Scores(
            loss=statistics.nll(logit_N, reviews.labels),
            accuracy=float(((logit_N > 0) == reviews.labels).mean()),
            index_N=torch.from_numpy(reviews.rows),
            labels_N=torch.from_numpy(np.where(name == UNSUPERVISED, -1, reviews.labels)),
            margins_N=torch.from_numpy(logit_N.astype(np.float32)),
        )
    metrics = {
        "status": "done",
        "baseline": True,
        "dataset": "imdb",
        "seed": 0,
        **about,
        **times(started),
        "git": git_commit(),
        "parameters": fitted.parameters,
        "val/acc": scores["val"].accuracy,
        "val/loss": scores["val"].loss,
        "test/acc": scores["test"].accuracy,
        "test/loss": scores["test"].loss,
        "device": device_name(torch.device("cpu")),
        "processor": process.processor(),
        "peak_memory": process.peak_memory(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    run.write_predictions(scores)
    run.write_metrics(metrics)
    log.info(
        "%s: %s=%g, test accuracy %.4f, %.0f s (%s)",
        *(metrics["model"], metrics["what"], metrics["chosen"]),
        *(metrics["test/acc"], metrics["seconds"], folder),
    )


def main() -> None:
    """Exits with 0, 1 where a baseline failed, 2 where there is nothing to fit."""
    arguments = parser().parse_args()
    names, path = [], None
    for text in arguments.what:
        key, _, value = text.partition("=")
        if key == "data.path" and value:
            path = value
        elif text in BASELINES:
            names.append(text)
        else:
            leave(f"{text}: it takes {', '.join(BASELINES)} or data.path=PATH")
    try:
        import sklearn  # noqa: F401
    except ImportError:
        leave("scikit-learn is not here: pip install 'imdb-lightning[baselines]'")
    import os

    from .data import sources
    from .run import Run

    path = path or os.environ.get("IMDB_DATA")
    try:
        sources.find(path, arguments.unsupervised)
    except sources.DataError as error:
        leave(str(error))
    failed = False
    for name in names or BASELINES:
        for refit in (False, True):
            folder = arguments.output / (f"{name}_refit" if refit else name)
            more = arguments.unsupervised and not refit
            if (folder / "metrics.json").exists():
                lacks = more and sources.UNSUPERVISED not in Run(folder).metrics["data"]
                what = "is done without --unsupervised; move it away" if lacks else "is done"
                print(f"{folder} {what}; another --output fits it again")
                failed = failed or lacks
                continue
            # In a process of its own, whose peak of memory is the baseline's.
            process = multiprocessing.get_context("spawn").Process(
                target=measure, args=(name, path, arguments.output, refit, more)
            )
            process.start()
            process.join()
            if process.exitcode != 0:
                failed = True
                break
    sys.exit(1 if failed else 0)


def leave(*lines: str) -> NoReturn:
    for line in lines:
        print(f"imdb_lightning.baselines: {line}", file=sys.stderr)
    sys.exit(2)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imdb_lightning.baselines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", metavar="NAME | data.path=PATH", nargs="*", help="default: all of them"
    )
    parser.add_argument(
        "--unsupervised", action="store_true", help="tell the unlabelled reviews too"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("outputs/baselines"))
    return parser


if __name__ == "__main__":
    main()
