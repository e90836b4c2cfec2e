"""Baselines: models without recurrence, on the same splits.

python -m imdb_lightning.baselines
python -m imdb_lightning.baselines nb_logistic --data PATH --output outputs/baselines

nb_logistic: logistic regression on words and pairs of words, weighted by the log ratio of their
frequencies in positive and negative reviews (Wang and Manning 2012, binary counts).
tfidf_logistic: logistic regression on TF-IDF of words and pairs of words.
bag_of_embeddings: the mean of learned word embeddings, and one linear layer (PyTorch).

Each is fitted on train, with its regularisation or its number of epochs selected on val, and tested
once; then fitted on all labelled reviews with the selected value, as NAME_refit, and tested. With
--unlabelled each predicts the unlabelled reviews too, so that it can be a `teacher`. It needs
`pip install 'imdb-lightning[baselines]'`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import cli
from .config.schema import KEYS


VAL_SIZE, SPLIT_SEED = KEYS["data.val_size"].default, KEYS["data.seed"].default
INVERSE_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # C of the logistic regressions
EPOCHS, SIZE, VOCABULARY, LENGTH = 10, 128, 30_000, 100_000  # of the bag of embeddings

log = logging.getLogger(__name__)


class Dataset(NamedTuple):
    """Labelled reviews of one split."""

    texts: list[str]
    labels: np.ndarray  # bool, positive
    rows: np.ndarray  # in their official split


class FittedModel(NamedTuple):
    """A function from texts to logits, and its number of parameters."""

    logits: Callable[[Sequence[str]], np.ndarray]
    parameters: int


Fit = Callable[[Dataset, Any], FittedModel]


def nb_logistic(train: Dataset, C: float) -> FittedModel:
    """Logistic regression with naive Bayes features. C: inverse strength of the penalty."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        binary=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", min_df=2
    )
    counts = vectorizer.fit_transform(train.texts).astype(np.float32)
    shares = []
    for label in (True, False):
        total = 1 + np.asarray(counts[train.labels == label].sum(0)).ravel()
        shares.append(total / total.sum())
    ratio = np.log(shares[0] / shares[1]).astype(np.float32)
    model = regression(counts.multiply(ratio).tocsr(), train.labels, C)
    return FittedModel(
        lambda texts: model.decision_function(vectorizer.transform(texts).multiply(ratio).tocsr()),
        2 * len(ratio) + 1,
    )


def tfidf_logistic(train: Dataset, C: float) -> FittedModel:
    """Logistic regression on TF-IDF. C: inverse strength of the penalty."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", min_df=2, sublinear_tf=True
    )
    model = regression(vectorizer.fit_transform(train.texts), train.labels, C)
    return FittedModel(
        lambda texts: model.decision_function(vectorizer.transform(texts)),
        2 * len(vectorizer.vocabulary_) + 1,
    )


def regression(features: Any, labels: np.ndarray, C: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, solver="liblinear", random_state=0).fit(features, labels)


def bag_of_embeddings(train: Dataset, epochs: int) -> FittedModel:
    """Trained with Adam at 2e-3 on batches of 64 complete reviews."""
    import torch
    from torch import nn

    from .data.batches import BucketBatchSampler, EncodedReviews, SortedBatchSampler
    from .data.text import Tokenizer

    torch.manual_seed(0)
    tokenizer = Tokenizer.train(train.texts, VOCABULARY, LENGTH, "head")

    def encoded(texts: Sequence[str], labels: np.ndarray) -> EncodedReviews:
        tokens, offsets = tokenizer.encode(list(texts))
        return EncodedReviews(tokens, offsets, labels.astype(np.int64), np.arange(len(labels)))

    bag = nn.EmbeddingBag(VOCABULARY + 1, SIZE, mode="mean", padding_idx=0)
    model = nn.Sequential(bag, nn.Dropout(0.5), nn.Linear(SIZE, 1))
    nn.init.normal_(bag.weight, std=0.1)
    reviews = encoded(train.texts, train.labels)
    order = BucketBatchSampler(reviews.lengths, 64, seed=0)
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
        for rows in SortedBatchSampler(others.lengths, 256):
            logit_N[rows] = model(others.__getitems__(rows)[0])[:, 0].numpy()
        return logit_N

    return FittedModel(logits, sum(p.numel() for p in model.parameters()))


BASELINES: dict[str, tuple[Fit, str, Sequence[Any]]] = {
    "nb_logistic": (nb_logistic, "C", INVERSE_STRENGTHS),
    "tfidf_logistic": (tfidf_logistic, "C", INVERSE_STRENGTHS),
    "bag_of_embeddings": (bag_of_embeddings, "epochs", range(1, EPOCHS + 1)),
}


def run_baseline(
    name: str, path: str | None, output: Path, refit: bool, unlabelled: bool = False
) -> None:
    """Fit, test and write one baseline; as a `refit` with the value that val has selected.

    Exits with 1 if the reviews cannot be used.
    """
    from .data import sources
    from .data.split import stratified_holdout
    from .runs.run import Run
    from .runtime import process

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    process.configure()
    try:
        root = sources.locate(path, unlabelled)
        official = sources.load(root, unlabelled)
        rows, val_rows = stratified_holdout(official["train"].labels, VAL_SIZE, SPLIT_SEED)
    except sources.DataError as error:
        cli.fail(str(error), code=cli.FAILED, command="baselines")
    if refit:
        rows = np.arange(len(official["train"].labels))
    train, val = subset(official["train"], rows), subset(official["train"], val_rows)
    others = {
        name: subset(reviews, np.arange(len(reviews.labels)))
        for name, reviews in official.items()
        if name != "train"
    }
    fit, hyperparameter, values = BASELINES[name]
    started = time.perf_counter(), time.process_time()
    if refit:
        known = Run(output / name).metrics
        if known["data"]["fingerprint"] != sources.fingerprint(root):
            cli.fail(
                f"{output / name} was fitted on other reviews than those of {root}; give another "
                "--output",
                code=cli.FAILED,
                command="baselines",
            )
        values = [known["value"]]
    best: tuple[float, Any, FittedModel] | None = None
    for value in values:
        model = fit(train, value)
        accuracy = float(((model.logits(val.texts) > 0) == val.labels).mean())
        if not refit:
            log.info("%s, %s=%g: val accuracy %.4f", name, hyperparameter, value, accuracy)
        if best is None or accuracy > best[0]:  # ties: the first
            best = (accuracy, value, model)
    assert best is not None
    _, value, model = best
    data = {"source": str(root), "fingerprint": sources.fingerprint(root)}
    if unlabelled:
        data[sources.UNLABELLED] = sources.fingerprint(root, (sources.UNLABELLED,))
    metadata: dict[str, Any] = {
        "model": f"{name}_refit" if refit else name,
        **({"train_on_val": True} if refit else {}),
        "hyperparameter": hyperparameter,
        "value": value,
        "data": data,
    }
    write(output / metadata["model"], metadata, model, {"val": val, **others}, started)


def subset(reviews: Any, rows: np.ndarray) -> Dataset:
    return Dataset([reviews.texts[row] for row in rows], reviews.labels[rows] == 1, rows)


def write(
    folder: Path,
    metadata: dict[str, Any],
    model: FittedModel,
    splits: dict[str, Dataset],
    started: tuple[float, float],
) -> None:
    """Test the model; write metrics.json and predictions.parquet, as a run does.

    The latter has the unlabelled reviews too, with the label -1.
    """
    import torch

    from .data.sources import UNLABELLED
    from .metrics.calibration import nll
    from .model.classifier import EvalOutput
    from .runs import predictions
    from .runs.run import Run
    from .runtime.provenance import device_name, git_commit, peak_memory, processor_name

    outputs = {}
    for name, reviews in splits.items():
        logit_N = model.logits(reviews.texts)
        outputs[name] = EvalOutput(
            loss=nll(logit_N, reviews.labels),
            accuracy=float(((logit_N > 0) == reviews.labels).mean()),
            index_N=torch.from_numpy(reviews.rows),
            labels_N=torch.from_numpy(np.where(name == UNLABELLED, -1, reviews.labels)),
            logit_N=torch.from_numpy(logit_N.astype(np.float32)),
        )
    metrics = {
        "status": "done",
        "baseline": True,
        "dataset": "imdb",
        "seed": 0,
        **metadata,
        "seconds": time.perf_counter() - started[0],
        "cpu_seconds": time.process_time() - started[1],
        "git": git_commit(),
        "parameters": model.parameters,
        "val/acc": outputs["val"].accuracy,
        "val/loss": outputs["val"].loss,
        "test/acc": outputs["test"].accuracy,
        "test/loss": outputs["test"].loss,
        "device": device_name(torch.device("cpu")),
        "processor": processor_name(),
        "peak_memory": peak_memory(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    predictions.write(run.predictions, outputs)
    run.write_metrics(metrics)
    log.info(
        "%s: %s=%g, test accuracy %.4f, %.0f s (%s)",
        *(metrics["model"], metrics["hyperparameter"], metrics["value"]),
        *(metrics["test/acc"], metrics["seconds"], folder),
    )


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, with 1 if a baseline failed, with 2 if there is nothing to fit."""
    arguments = (p := parser()).parse_args(argv)
    for name in arguments.names:
        if name not in BASELINES:
            p.fail(f"{name}: must be one of {', '.join(BASELINES)}")
    try:
        import sklearn  # noqa: F401
    except ImportError:
        p.fail("scikit-learn is missing: pip install 'imdb-lightning[baselines]'")
    from .data import sources
    from .runs.run import Run

    path = arguments.data or os.environ.get("IMDB_DATA")
    try:
        sources.locate(path, arguments.unlabelled)
    except sources.DataError as error:
        p.fail(str(error))
    failed = False
    for name in arguments.names or BASELINES:
        for refit in (False, True):
            folder = arguments.output / (f"{name}_refit" if refit else name)
            unlabelled = arguments.unlabelled and not refit
            if (folder / "metrics.json").exists():
                lacks = unlabelled and sources.UNLABELLED not in Run(folder).metrics["data"]
                what = "is done without --unlabelled; move it away" if lacks else "is done"
                print(f"{folder} {what}; choose another --output to fit it again")
                failed = failed or lacks
                continue
            # In its own process, so that its peak memory is the baseline's.
            process = multiprocessing.get_context("spawn").Process(
                target=run_baseline, args=(name, path, arguments.output, refit, unlabelled)
            )
            process.start()
            process.join()
            if process.exitcode != 0:
                failed = True
                break
    sys.exit(cli.FAILED if failed else 0)


def parser() -> cli.Parser:
    p = cli.Parser("baselines", __doc__)
    p.add_argument("names", metavar="NAME", nargs="*", help=f"{', '.join(BASELINES)}; default: all")
    p.add_data()
    p.add_argument("--unlabelled", action="store_true", help="predict the unlabelled reviews too")
    p.add_argument("--output", metavar="DIR", type=Path, default=Path("outputs/baselines"))
    return p


if __name__ == "__main__":
    main()
