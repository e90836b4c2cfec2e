"""Runs that learn from what an earlier run tells of the reviews without labels.

pytest tests/test_teacher.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from imdb_lightning import baselines, config, statistics, teacher
from imdb_lightning.baselines import BASELINES
from imdb_lightning.data import synthetic
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.report.runs import read_predictions
from imdb_lightning.run import Run
from imdb_lightning.train import Changed, make_data, make_model, train
from imdb_lightning.trained import load
from tests.conftest import TINY, command, composed, run_of, some_reviews, write_parquet


@pytest.fixture(scope="module")
def taught_by(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("teacher") / "run=1", "model=rnn")


def learning(path: Path, *overrides: str) -> list[str]:
    return [*TINY, "model=gru", f"teacher='{path}'", "data.unsupervised=true", *overrides]


def test_unlabelled_reviews_are_trained_on_with_the_teachers_probabilities(taught_by: Path) -> None:
    cfg = composed(*learning(taught_by))
    assert teacher.mistakes(cfg) == []
    data = make_data(cfg)
    data.setup()
    alone = make_data(composed(*TINY, "data.unsupervised=true"))
    alone.setup()
    train_split, labelled = data.splits["train"], alone.splits["train"]
    own, unlabelled = len(labelled), len(alone.splits["unsupervised"])
    assert len(train_split) == own + unlabelled
    np.testing.assert_array_equal(train_split.labels[:own], labelled.labels)
    np.testing.assert_array_equal(train_split.index[own:], -1 - np.arange(unlabelled))
    texts = synthetic.corpus(80, 16, cfg.data.distance, 60, cfg.data.seed, True)
    run = load(taught_by)
    logit_N = run.logits(texts["unsupervised"].texts) / run.temperature  # a weight of one teacher
    model = make_model(cfg, data)
    assert isinstance(model, Classifier)
    rows = [*range(3), *range(own, own + 5)]
    tokens_BT, lengths_B, labels_B, index_B = train_split.__getitems__(rows)
    told_B2 = model.targets(labels_B, index_B)
    expected = [*labelled.labels[:3], *(1 / (1 + np.exp(-logit_N[:5])))]
    np.testing.assert_allclose(told_B2[:, 1], expected, rtol=1e-3)
    torch.testing.assert_close(told_B2.sum(1), torch.ones(8))
    model.eval()
    share_B2 = model(tokens_BT, lengths_B).softmax(1)
    loss = -(told_B2 * share_B2.log()).sum(1).mean()
    torch.testing.assert_close(model.batch_loss(train_split.__getitems__(rows)), loss)
    assert "told_N" not in model.state_dict()


def test_val_and_test_are_those_of_any_run(taught_by: Path) -> None:
    data, alone = make_data(composed(*learning(taught_by))), make_data(composed(*TINY))
    for one in (data, alone):
        one.setup()
    for name in ("val", "test"):
        np.testing.assert_array_equal(data.splits[name].index, alone.splits[name].index)
        np.testing.assert_array_equal(data.splits[name].labels, alone.splits[name].labels)


def test_a_run_says_from_which_it_learned_and_goes_on_with_that_alone(
    taught_by: Path, tmp_path: Path
) -> None:
    arguments = [*learning(taught_by), "optim.adversarial=0.01"]
    straight = train(composed(*arguments), tmp_path / "straight")
    (facts,) = straight["data"]["teacher"]
    assert facts["settings"] == config.digest(Run(taught_by).config, seed=False)
    assert len(facts["sha256"]) == 64 and facts["core_seconds"] > 0
    path = run_of(tmp_path / "run", *arguments, "trainer.max_epochs=1")
    train(composed(*arguments, f"resume='{path}'"), path)
    for name in ("val/loss", "test/loss"):
        assert Run(path).metrics[name] == straight[name]
    other = run_of(tmp_path / "other", "model=rnn", "seed=1")
    with pytest.raises(Changed, match="data.teacher"):
        more = [*learning(other), "trainer.max_epochs=3", f"resume='{path}'"]
        train(composed(*more), path)


WRONG = {
    "data.val_size=8": "data.val_size=8: it is 16 in",
    "data.seed=5": "data.seed=5: it is 0 in",
    "data.max_length=55": "data.max_length=55: it is 60 in",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_teacher_that_has_read_other_reviews_is_refused(override: str, taught_by: Path) -> None:
    lines = teacher.mistakes(composed(*learning(taught_by), override))
    assert any(WRONG[override] in line for line in lines)


@pytest.mark.slow
def test_what_cannot_tell_is_refused(tmp_path: Path) -> None:
    words = run_of(tmp_path / "words", "model=rnn", "pretrain=vectors", "trainer.max_epochs=1")
    refit = run_of(tmp_path / "refit", "model=rnn", "trainer.max_epochs=1", "data.refit=true")
    half = run_of(tmp_path / "half", "model=rnn", "trainer.max_epochs=1")
    Run(half).write_metrics(Run(half).metrics | {"status": "interrupted"})
    none = run_of(tmp_path / "empty", "model=rnn", "trainer.max_epochs=1")
    Run(none).last.unlink()
    for path, told in (
        (tmp_path / "none", "no run there"),
        (words, "a pretraining"),
        (refit, "it has read val's reviews"),
        (half, f"resume={half} goes on with it"),
        (none, "no such checkpoint"),
    ):
        (line,) = teacher.mistakes(composed(*learning(path)))
        assert told in line, line


@pytest.mark.slow
def test_the_command_line_refuses_it_too(tmp_path: Path) -> None:
    done = command(tmp_path, *learning(tmp_path / "none"))
    assert done.returncode == 2 and "no run there" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_several_teachers_are_weighted_on_val(taught_by: Path, tmp_path: Path) -> None:
    other = run_of(tmp_path / "other", "model=gru", "seed=1")
    cfg = composed(*TINY, "data.unsupervised=true")
    texts = synthetic.corpus(80, 16, cfg.data.distance, 60, cfg.data.seed, True)["unsupervised"]
    paths = [taught_by, other]
    both_N = teacher.tell(paths, texts.texts)
    val = [read_predictions(Run(path).predictions)["val"] for path in paths]
    w_K = statistics.weights(np.stack([v.logit for v in val]).astype(float), val[0].label)
    logit_N = w_K @ np.stack([load(path).logits(texts.texts) for path in paths])
    np.testing.assert_allclose(both_N, 1 / (1 + np.exp(-logit_N)), rtol=1e-5)
    cfg = composed(*learning(taught_by), f"teacher=['{taught_by}','{other}']")
    assert teacher.mistakes(cfg) == []
    data = make_data(cfg)
    data.setup()
    assert data.told_N is not None
    np.testing.assert_array_equal(data.told_N, both_N)


@pytest.mark.slow
def test_a_baseline_is_a_teacher_too(
    taught_by: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabelled = {"text": some_reviews(30, 260)["text"], "label": [-1] * 30}
    splits = {"train": some_reviews(200), "test": some_reviews(60, 200)}
    data = write_parquet(tmp_path / "d", **splits, unsupervised=unlabelled)
    monkeypatch.setattr(baselines, "VAL_SIZE", 40)
    monkeypatch.setitem(teacher.OF_BASELINES, "data.val_size", 40)
    monkeypatch.setitem(BASELINES, "nb_logistic", (baselines.nb_logistic, "C", (1.0,)))
    for unsupervised in (False, True):
        path = tmp_path / str(unsupervised) / "nb_logistic"
        baselines.measure("nb_logistic", str(data), path.parent, False, unsupervised)
    short = ["trainer=cpu", "trainer.max_epochs=1", "+trainer.limit_train_batches=1"]
    small = [f"data.path={data}", "data.val_size=40", "data.vocab_size=50", "model=rnn", *short]
    cfg = composed(*small, "data.unsupervised=true", f"teacher='{path}'")
    assert teacher.mistakes(cfg) == []
    (facts,) = train(cfg, tmp_path / "run")["data"]["teacher"]
    assert facts["settings"] == "nb_logistic" and facts["core_seconds"] > 0
    told_N = teacher.tell([path], unlabelled["text"])
    assert [p > 0.5 for p in told_N] == [label == 1 for label in some_reviews(30, 260)["label"]]
    cfg.teacher = str(tmp_path / "False" / "nb_logistic")
    (line,) = teacher.mistakes(cfg)
    assert "it has not told these unlabelled reviews" in line
