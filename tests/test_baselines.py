"""The baselines learn, choose on val alone, and write what the page of the recipes reads.

pytest tests/test_baselines.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute
import pyarrow.parquet
import pytest

from imdb_lightning import baselines
from imdb_lightning.baselines import BASELINES, Dataset
from imdb_lightning.data import synthetic
from imdb_lightning.runs import predictions
from imdb_lightning.runs.run import Run
from tests.conftest import command, some_reviews, write_parquet


def some(name: str, count: int) -> Dataset:
    reviews = synthetic.corpus(600, 300, 10, 200, 0)[name]
    return Dataset(reviews.texts[:count], reviews.labels[:count] == 1, np.arange(count))


@pytest.mark.parametrize(("name", "choice"), [*zip(BASELINES, (1.0, 1.0, 25), strict=True)])
def test_each_baseline_learns_a_countable_difference(name: str, choice: float) -> None:
    train, test = some("train", 600), some("test", 300)
    fitted = BASELINES[name][0](train, choice)
    logit_N = fitted.logits(test.texts)
    assert ((logit_N > 0) == test.labels).mean() > 0.85
    np.testing.assert_allclose(fitted.logits(test.texts[7:9]), logit_N[7:9], rtol=1e-4, atol=1e-5)
    assert fitted.parameters > 100


def test_ratios_are_those_of_wang_and_manning() -> None:
    """By hand: (1 + reviews of a class with the word) over the sum of these, as a logarithm."""
    texts = ["good film", "good film", "bad film", "film bad"]
    labels = np.array([True, True, False, False])
    fitted = baselines.nb_logistic(Dataset(texts, labels, np.arange(4)), 1.0)
    # Words in two reviews or more: bad, film, good, "good film"; counts 0 2 2 2 and 2 2 0 0.
    positive, negative = np.array([1, 3, 3, 3]) / 10, np.array([3, 3, 1, 1]) / 8
    features = np.array([[0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    model = baselines.regression(features * np.log(positive / negative), labels, 1.0)
    expected = model.decision_function(features * np.log(positive / negative))
    np.testing.assert_allclose(fitted.logits(texts), expected, rtol=1e-4)


def test_the_files_of_a_baseline_are_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "VAL_SIZE", 40)
    monkeypatch.setitem(BASELINES, "nb_logistic", (baselines.nb_logistic, "C", (1e-4, 1.0)))
    data = write_parquet(tmp_path / "d", train=some_reviews(200), test=some_reviews(60, 200))
    for refit in (False, True):
        baselines.run_baseline("nb_logistic", str(data), tmp_path / "out", refit)
    for name in ("nb_logistic", "nb_logistic_refit"):
        run = Run(tmp_path / "out" / name)
        splits = predictions.read(run.predictions, "val", "test")
        metrics = run.metrics
        assert {split: len(rows.index) for split, rows in splits.items()} == {"val": 40, "test": 60}
        for split, rows in splits.items():
            assert metrics[f"{split}/acc"] == rows.correct.mean() == 1
        assert metrics["model"] == name and metrics["status"] == "done"
        assert metrics["value"] == 1e-4  # ties: the first
    other = write_parquet(tmp_path / "other", train=some_reviews(200, 7), test=some_reviews(60))
    with pytest.raises(SystemExit, match="1"):
        baselines.run_baseline("nb_logistic", str(other), tmp_path / "out", refit=True)
    assert Run(tmp_path / "out" / "nb_logistic_refit").metrics == metrics


def test_the_unlabelled_reviews_are_predicted_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "VAL_SIZE", 40)
    monkeypatch.setitem(BASELINES, "nb_logistic", (baselines.nb_logistic, "C", (1.0,)))
    unlabelled = some_reviews(30, 260)
    data = write_parquet(
        tmp_path / "d",
        train=some_reviews(200),
        test=some_reviews(60, 200),
        unsupervised={"text": unlabelled["text"], "label": [-1] * 30},
    )
    baselines.run_baseline("nb_logistic", str(data), tmp_path / "out", False, unlabelled=True)
    table = pyarrow.parquet.read_table(Run(tmp_path / "out" / "nb_logistic").predictions)
    predicted = table.filter(pyarrow.compute.equal(table["split"], "unsupervised"))
    assert predicted["label"].to_pylist() == [-1] * 30 and predicted["index"].to_pylist() == [
        *range(30)
    ]
    assert [logit > 0 for logit in predicted["logit"].to_pylist()] == [
        label == 1 for label in unlabelled["label"]
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["nb_logistc"],
            "nb_logistc: must be one of nb_logistic, tfidf_logistic",
        ),
        (["--data", "/none"], "no such file or folder: /none"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "d", train=some_reviews(20), test=some_reviews(6, 20))
    done = command(tmp_path, *arguments, module="baselines")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and expected in line


@pytest.mark.parametrize(
    ("more", "code", "expected"),
    [([], 0, "is done; choose another"), (["--unlabelled"], 1, "is done without --unlabelled")],
)
def test_a_finished_baseline_is_not_fitted_again(
    more: list[str], code: int, expected: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "d", train=some_reviews(20), test=some_reviews(6, 20))
    for name in ("nb_logistic", "nb_logistic_refit"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "metrics.json").write_text('{"data": {}}')
    given = ["nb_logistic", "--data", "d", "--output", "out", *more]
    done = command(tmp_path, *given, module="baselines")
    assert done.returncode == code and done.stdout.count("is done") == 2
    assert expected in done.stdout
    assert {file.read_text("utf-8") for file in tmp_path.rglob("metrics.json")} == {'{"data": {}}'}
