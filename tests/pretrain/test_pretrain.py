"""Pretraining, and classifiers that begin with it.

pytest tests/pretrain
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from imdb_lightning import checkpoint, config
from imdb_lightning.data.batches import EncodedReviews
from imdb_lightning.pretrain import pretrained
from imdb_lightning.pretrain.vectors import skip_gram
from imdb_lightning.record import hyperparameters
from imdb_lightning.run import Run
from imdb_lightning.train import Changed, make_data, make_model, train
from tests.conftest import (
    TINY,
    command,
    composed,
    environment,
    run_of,
    some_reviews,
    write_parquet,
)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "run"
    return run_of(path, "model=rnn", "pretrain=vectors", "data.unsupervised=true")


def test_a_pretraining_leaves_a_run(vectors: Path) -> None:
    run = Run(vectors)
    assert run.status == "done"
    assert run.tokenizer.exists() and not run.predictions.exists()
    assert not any(key.startswith("test/") for key in run.metrics)


def test_a_classifier_begins_with_it(vectors: Path) -> None:
    cfg = composed(*TINY, f"pretrained={vectors}", "optim.pretrained_lr=0.25")
    assert pretrained.mistakes(cfg) == []
    data = make_data(cfg)
    data.setup()
    assert data.tokenizer == Run(vectors).tokenizer.read_text()
    model = make_model(cfg, data)
    before = checkpoint.weights(Run(vectors).vectors)
    assert torch.equal(model.embedding.weight, before["embedding.weight"])
    # What was pretrained learns more slowly; the rest does not.
    rest, slow = model.configure_optimizers().param_groups
    assert slow["params"] == [model.embedding.weight] and slow["lr"] == pytest.approx(0.25e-3)
    assert len(rest["params"]) == len([*model.parameters()]) - 1
    assert rest["lr"] == pytest.approx(1e-3)


def test_a_run_says_what_it_began_with(vectors: Path, tmp_path: Path) -> None:
    cfg = composed(*TINY, f"pretrained={vectors}")
    facts = train(cfg, tmp_path / "run")["data"]["pretrained"]
    assert facts["settings"] == config.digest(Run(vectors).config, seed=False)
    assert len(facts["sha256"]) == 64 and facts["unsupervised"] is True
    assert facts["seconds"] > 0 and facts["pretrain"] == "vectors"
    assert hyperparameters(cfg)["pretrained"] == vectors.name  # in TensorBoard, without the path


WRONG = {
    "model.embedding_size=9": "model.embedding_size=9: it is 8 in",
    "data.vocab_size=500": "data.vocab_size=500: it is 20000 in",
    "data.val_size=8": "data.val_size=8: it is 16 in",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_classifier_with_other_words_is_refused(override: str, vectors: Path) -> None:
    cfg = composed(*TINY, f"pretrained={vectors}", override)
    assert any(WRONG[override] in line for line in pretrained.mistakes(cfg))


def test_vectors_fit_any_backbone(vectors: Path) -> None:
    cfg = composed(*TINY, "model=gru", "model.hidden_size=5", f"pretrained={vectors}")
    assert pretrained.mistakes(cfg) == []


def test_what_is_no_pretraining_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "model=rnn", "trainer.max_epochs=1")
    for path, told in ((tmp_path / "none", "no run there"), (run, "not a pretraining")):
        (line,) = pretrained.mistakes(composed(*TINY, f"pretrained={path}"))
        assert told in line and "imdb_lightning.pretrain" in line


def test_what_is_there_in_parts_is_refused(tmp_path: Path) -> None:
    run = Run(run_of(tmp_path / "run", "model=rnn", "pretrain=vectors", "trainer.max_epochs=1"))
    cfg = composed(*TINY, f"pretrained={run.path}")
    assert pretrained.mistakes(cfg) == []
    metrics = run.metrics
    run.write_metrics(metrics | {"status": "interrupted"})
    (line,) = pretrained.mistakes(cfg)
    assert "it is interrupted" in line and f"resume={run.path}" in line
    run.write_metrics(metrics)
    run.vectors.unlink()
    (line,) = pretrained.mistakes(cfg)
    assert "there is no vectors.ckpt" in line


def test_other_reviews_are_refused(tmp_path: Path) -> None:
    """Of another copy, other reviews may be val."""
    small = ["data.val_size=8", "data.vocab_size=50", "model.embedding_size=4", "trainer=cpu"]
    copies = [
        write_parquet(tmp_path / name, train=some_reviews(60, offset), test=some_reviews(8, 99))
        for name, offset in (("a", 0), ("b", 1))
    ]
    path = run_of(
        tmp_path / "run",
        "pretrain=vectors",
        "trainer.max_epochs=1",
        *small,
        f"data.path={copies[0]}",
        tiny=(),
    )
    told = [
        pretrained.mistakes(composed(*small, f"data.path={copy}", f"pretrained={path}"))
        for copy in copies
    ]
    assert told[0] == [] and "other reviews" in told[1][0]


@pytest.mark.slow
def test_another_pretraining_in_its_place_is_seen(vectors: Path, tmp_path: Path) -> None:
    """A run that is interrupted does not go on with weights of another beginning."""
    before = tmp_path / "before"
    shutil.copytree(vectors, before)
    arguments = [*TINY, f"pretrained={before}"]
    path = run_of(tmp_path / "run", f"pretrained={before}", "trainer.max_epochs=1")
    train(composed(*arguments, "trainer.max_epochs=2", f"resume={path}"), path)
    weights = torch.load(Run(before).vectors, weights_only=True)
    weights["state_dict"]["embedding.weight"] += 1
    checkpoint.save(weights, Run(before).vectors)
    with pytest.raises(Changed, match="data.pretrained"):
        train(composed(*arguments, "trainer.max_epochs=3", f"resume={path}"), path)


def test_what_has_read_val_is_refused_where_val_chooses(tmp_path: Path) -> None:
    path = run_of(tmp_path / "run", "pretrain=vectors", "data.refit=true", "trainer.max_epochs=1")
    (line,) = pretrained.mistakes(composed(*TINY, f"pretrained={path}"))
    assert "data.refit" in line
    assert pretrained.mistakes(composed(*TINY, f"pretrained={path}", "data.refit=true")) == []


def test_vectors_are_those_of_words_that_stand_together() -> None:
    """Two topics of ten words each, which are never in one review."""
    random = np.random.default_rng(0)
    topics = random.integers(2, size=400)
    words_ND = 3 + topics[:, None] * 10 + random.integers(10, size=(400, 12))
    tokens_ND = np.concatenate([np.ones((400, 1), int), words_ND], axis=1).astype(np.int32)
    offsets = np.arange(401) * 13
    nothing = np.zeros(400, np.int64)
    reviews = EncodedReviews(tokens_ND.ravel(), offsets, nothing, nothing)
    vectors, again = (
        skip_gram(reviews, 30, 8, window=5, negatives=5, epochs=20, seed=0) for _ in range(2)
    )
    np.testing.assert_array_equal(vectors, again)
    assert (vectors[[0, 1, 2]] == 0).all() and (vectors[23:] == 0).all()
    unit = vectors[3:23] / np.linalg.norm(vectors[3:23], axis=1, keepdims=True)
    near = unit @ unit.T
    assert near[:10, :10].mean() > near[:10, 10:].mean() + 0.5


def test_the_command_pretrains_and_names_what_comes_next(tmp_path: Path) -> None:
    arguments = [*TINY, "model=rnn", "trainer.max_epochs=1", "hydra.run.dir=words"]
    done = subprocess.run(
        [sys.executable, "-m", "imdb_lightning.pretrain", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "a classifier begins with pretrained=" in done.stdout
    metrics = Run(tmp_path / "words").metrics
    assert (metrics["pretrain"], metrics["model"]) == ("vectors", "rnn")


def test_without_reviews_there_is_one_line(tmp_path: Path) -> None:
    """Not the synthetic corpus, which what was pretrained has never seen."""
    small = ["data.val_size=8", "data.vocab_size=50", "model.embedding_size=4", "trainer=cpu"]
    data = write_parquet(tmp_path / "d", train=some_reviews(60), test=some_reviews(8, 60))
    words = ("pretrain=vectors", "trainer.max_epochs=1", *small, f"data.path={data}")
    path = run_of(tmp_path / "words", *words, tiny=())
    done = command(tmp_path, *small, f"pretrained={path}", "hydra.run.dir=run")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "no reviews here" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_takes_no_classifier(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imdb_lightning.pretrain", "experiment=smoke"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "nothing is pretrained" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_grid_of_pretrainings(tmp_path: Path) -> None:
    """And the same command again, which finds it done."""
    arguments = ["-m", "seed=0,1", "data.seed=0", "hydra.sweep.dir=grid", "model=rnn"]
    for told in ("2 of 2 runs done", "2 of 2 runs are done already"):
        done = subprocess.run(
            [sys.executable, "-m", "imdb_lightning.pretrain", *arguments, *TINY],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert told in done.stdout
