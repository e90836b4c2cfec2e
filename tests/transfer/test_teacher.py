"""Teachers: runs that learn from soft labels of the unlabelled reviews.

pytest tests/transfer/test_teacher.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from imdb_lightning import baselines
from imdb_lightning.baselines import BASELINES
from imdb_lightning.config.identity import config_hash
from imdb_lightning.data import synthetic
from imdb_lightning.data.datamodule import ReviewDataModule
from imdb_lightning.inference import load
from imdb_lightning.metrics.calibration import ensemble_weights
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.runs import predictions
from imdb_lightning.runs.resume import ResumeError
from imdb_lightning.runs.run import Run
from imdb_lightning.train import train
from imdb_lightning.transfer import teacher
from imdb_lightning.transfer.teacher import Teachers
from tests.conftest import TINY, command, composed, run_of, some_reviews, write_parquet


def check(cfg: DictConfig) -> list[str]:
    return Teachers(cfg.teacher).check(cfg)


def reviews_of(cfg: DictConfig) -> ReviewDataModule:
    soft_labels = None if cfg.teacher is None else Teachers(cfg.teacher).soft_labels
    data = ReviewDataModule(cfg.data, cfg.seed, teacher=soft_labels)
    data.setup()
    return data


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("teacher") / "run=1", "model=rnn")


def learning(path: Path, *overrides: str) -> list[str]:
    return [*TINY, "model=gru", f"teacher='{path}'", "data.use_unlabelled=true", *overrides]


def test_unlabelled_reviews_are_trained_on_with_the_teachers_probabilities(
    teacher_run: Path,
) -> None:
    cfg = composed(*learning(teacher_run))
    assert check(cfg) == []
    data = reviews_of(cfg)
    alone = reviews_of(composed(*TINY, "data.use_unlabelled=true"))
    train_split, labelled = data.splits["train"], alone.splits["train"]
    own, unlabelled = len(labelled), len(alone.splits["unsupervised"])
    assert len(train_split) == own + unlabelled
    np.testing.assert_array_equal(train_split.labels[:own], labelled.labels)
    np.testing.assert_array_equal(train_split.index[own:], -1 - np.arange(unlabelled))
    texts = synthetic.corpus(80, 16, cfg.data.distance, 60, cfg.data.seed, True)
    run = load(teacher_run)
    logit_N = run.logits(texts["unsupervised"].texts) / run.temperature  # a weight of one teacher
    assert data.soft_labels_N is not None
    model = Classifier.from_config(cfg.model, cfg.optim, None, torch.from_numpy(data.soft_labels_N))
    rows = [*range(3), *range(own, own + 5)]
    tokens_BT, lengths_B, labels_B, index_B = train_split.__getitems__(rows)
    targets_B2 = model.targets(labels_B, index_B)
    expected = [*labelled.labels[:3], *(1 / (1 + np.exp(-logit_N[:5])))]
    np.testing.assert_allclose(targets_B2[:, 1], expected, rtol=1e-3)
    torch.testing.assert_close(targets_B2.sum(1), torch.ones(8))
    model.eval()
    share_B2 = model(tokens_BT, lengths_B).softmax(1)
    loss = -(targets_B2 * share_B2.log()).sum(1).mean()
    torch.testing.assert_close(model.losses(train_split.__getitems__(rows))[0].mean(), loss)
    assert "soft_labels_N" not in model.state_dict()


def test_val_and_test_are_those_of_any_run(teacher_run: Path) -> None:
    data, alone = reviews_of(composed(*learning(teacher_run))), reviews_of(composed(*TINY))
    for name in ("val", "test"):
        np.testing.assert_array_equal(data.splits[name].index, alone.splits[name].index)
        np.testing.assert_array_equal(data.splits[name].labels, alone.splits[name].labels)


@pytest.mark.slow
def test_a_run_records_its_teacher_and_resumes_only_with_that_one(
    teacher_run: Path, tmp_path: Path
) -> None:
    arguments = [*learning(teacher_run), "optim.adversarial_epsilon=0.01"]
    uninterrupted = train(composed(*arguments), tmp_path / "uninterrupted")
    (known,) = uninterrupted["data"]["teacher"]
    assert known["settings"] == config_hash(Run(teacher_run).config, seed=False, upstream=False)
    assert len(known["sha256"]) == 64 and known["cpu_seconds"] > 0
    path = run_of(tmp_path / "run", *arguments, "trainer.max_epochs=1")
    train(composed(*arguments, f"resume='{path}'"), path)
    for name in ("val/loss", "test/loss"):
        assert Run(path).metrics[name] == uninterrupted[name]
    other = run_of(tmp_path / "other", "model=rnn", "seed=1")
    with pytest.raises(ResumeError, match="data.teacher"):
        more = [*learning(other), "trainer.max_epochs=3", f"resume='{path}'"]
        train(composed(*more), path)


WRONG = {
    "data.val_size=8": "data.val_size=8: must be 16, as in",
    "data.seed=5": "data.seed=5: must be 0, as in",
    "data.max_length=55": "data.max_length=55: must be 60, as in",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_teacher_that_has_read_other_reviews_is_refused(override: str, teacher_run: Path) -> None:
    lines = check(composed(*learning(teacher_run), override))
    assert any(WRONG[override] in line for line in lines)


@pytest.mark.slow
def test_runs_that_cannot_be_teachers_are_refused(tmp_path: Path) -> None:
    words = run_of(tmp_path / "words", "model=rnn", "pretrain=vectors", "trainer.max_epochs=1")
    refit = run_of(
        tmp_path / "refit", "model=rnn", "trainer.max_epochs=1", "data.train_on_val=true"
    )
    half = run_of(tmp_path / "half", "model=rnn", "trainer.max_epochs=1")
    Run(half).write_metrics(Run(half).metrics | {"status": "interrupted"})
    none = run_of(tmp_path / "empty", "model=rnn", "trainer.max_epochs=1")
    Run(none).last.unlink()
    for path, expected in (
        (tmp_path / "none", "no run there"),
        (words, "a pretraining"),
        (refit, "was trained on val"),
        (half, f"finish it with python -m imdb_lightning resume={half}"),
        (none, "no such checkpoint"),
    ):
        (line,) = check(composed(*learning(path)))
        assert expected in line, line


@pytest.mark.slow
def test_the_command_line_refuses_it_too(tmp_path: Path) -> None:
    done = command(tmp_path, *learning(tmp_path / "none"))
    assert done.returncode == 2 and "no run there" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_several_teachers_are_weighted_on_val(teacher_run: Path, tmp_path: Path) -> None:
    other = run_of(tmp_path / "other", "model=gru", "seed=1")
    cfg = composed(*TINY, "data.use_unlabelled=true")
    texts = synthetic.corpus(80, 16, cfg.data.distance, 60, cfg.data.seed, True)["unsupervised"]
    paths = [teacher_run, other]
    both_N = Teachers([str(path) for path in paths]).soft_labels(texts.texts)
    val = [predictions.read(Run(path).predictions, "val")["val"] for path in paths]
    w_K = ensemble_weights(np.stack([v.logit for v in val]).astype(float), val[0].label)
    logit_N = w_K @ np.stack([load(path).logits(texts.texts) for path in paths])
    np.testing.assert_allclose(both_N, 1 / (1 + np.exp(-logit_N)), rtol=1e-5)
    cfg = composed(*learning(teacher_run), f"teacher=['{teacher_run}','{other}']")
    assert check(cfg) == []
    data = reviews_of(cfg)
    assert data.soft_labels_N is not None
    np.testing.assert_array_equal(data.soft_labels_N, both_N)


@pytest.mark.slow
def test_a_baseline_is_a_teacher_too(
    teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabelled = {"text": some_reviews(30, 260)["text"], "label": [-1] * 30}
    splits = {"train": some_reviews(200), "test": some_reviews(60, 200)}
    data = write_parquet(tmp_path / "d", **splits, unsupervised=unlabelled)
    monkeypatch.setattr(baselines, "VAL_SIZE", 40)
    monkeypatch.setitem(teacher.BASELINE_CONFIG, "data.val_size", 40)
    monkeypatch.setitem(BASELINES, "nb_logistic", (baselines.nb_logistic, "C", (1.0,)))
    for with_unlabelled in (False, True):
        path = tmp_path / str(with_unlabelled) / "nb_logistic"
        baselines.run_baseline("nb_logistic", str(data), path.parent, False, with_unlabelled)
    short = ["trainer=cpu", "trainer.max_epochs=1", "+trainer.limit_train_batches=1"]
    small = [f"data.path={data}", "data.val_size=40", "data.vocab_size=50", "model=rnn", *short]
    cfg = composed(*small, "data.use_unlabelled=true", f"teacher='{path}'")
    assert check(cfg) == []
    (known,) = train(cfg, tmp_path / "run")["data"]["teacher"]
    assert known["settings"] == "nb_logistic" and known["cpu_seconds"] > 0
    soft_labels_N = Teachers(str(path)).soft_labels(unlabelled["text"])
    assert [p > 0.5 for p in soft_labels_N] == [
        label == 1 for label in some_reviews(30, 260)["label"]
    ]
    cfg.teacher = str(tmp_path / "False" / "nb_logistic")
    (line,) = check(cfg)
    assert "has no predictions for these unlabelled reviews" in line
