"""Pretraining, and classifiers that start from it.

pytest tests/pretrain
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from imdb_lightning.config.identity import config_hash
from imdb_lightning.data.batches import EncodedReviews
from imdb_lightning.data.datamodule import ReviewDataModule
from imdb_lightning.loggers.tensorboard import hyperparameters
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.pretrain.vectors import skip_gram
from imdb_lightning.runs import checkpoint
from imdb_lightning.runs.resume import ResumeError
from imdb_lightning.runs.run import Run
from imdb_lightning.train import train
from imdb_lightning.transfer.pretrained import Pretrained
from tests.conftest import (
    TINY,
    command,
    composed,
    run_of,
    some_reviews,
    write_parquet,
)


def check(cfg: DictConfig) -> list[str]:
    return Pretrained(cfg.pretrained).check(cfg)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "run"
    return run_of(path, "model=rnn", "pretrain=vectors", "data.use_unlabelled=true")


def test_a_pretraining_is_a_run(vectors: Path) -> None:
    run = Run(vectors)
    assert run.status == "done"
    assert run.tokenizer.exists() and not run.predictions.exists()
    assert not any(key.startswith("test/") for key in run.metrics)


def test_a_classifier_starts_from_it(vectors: Path) -> None:
    cfg = composed(*TINY, f"pretrained={vectors}", "optim.pretrained_lr_scale=0.25")
    assert check(cfg) == []
    pretrained = Pretrained(cfg.pretrained)
    data = ReviewDataModule(cfg.data, cfg.seed, tokenizer_json=pretrained.tokenizer_json())
    data.setup()
    assert data.tokenizer_json == Run(vectors).tokenizer.read_text("utf-8")
    model = Classifier.from_config(cfg.model, cfg.optim, pretrained=pretrained.state_dict())
    before = checkpoint.read_state_dict(Run(vectors).vectors)
    assert torch.equal(model.embedding.weight, before["embedding.weight"])
    # Pretrained weights learn more slowly; the others do not.
    rest, slow = model.configure_optimizers().param_groups
    assert slow["params"] == [model.embedding.weight] and slow["lr"] == pytest.approx(0.25e-3)
    assert len(rest["params"]) == len([*model.parameters()]) - 1
    assert rest["lr"] == pytest.approx(1e-3)


def test_a_run_records_its_pretraining(vectors: Path, tmp_path: Path) -> None:
    cfg = composed(*TINY, f"pretrained={vectors}")
    known = train(cfg, tmp_path / "run")["data"]["pretrained"]
    assert known["settings"] == config_hash(Run(vectors).config, seed=False, upstream=False)
    assert len(known["sha256"]) == 64 and known["use_unlabelled"] is True
    assert known["seconds"] > 0 and known["pretrain"] == "vectors"
    assert hyperparameters(cfg)["pretrained"] == vectors.name  # in TensorBoard, without the path


WRONG = {
    "model.embedding_size=9": "model.embedding_size=9: must be 8, as in",
    "data.vocab_size=500": "data.vocab_size=500: must be 20000, as in",
    "data.val_size=8": "data.val_size=8: must be 16, as in",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_classifier_with_other_words_is_refused(override: str, vectors: Path) -> None:
    cfg = composed(*TINY, f"pretrained={vectors}", override)
    assert any(WRONG[override] in line for line in check(cfg))


def test_vectors_fit_any_backbone(vectors: Path) -> None:
    cfg = composed(*TINY, "model=gru", "model.hidden_size=5", f"pretrained={vectors}")
    assert check(cfg) == []


def test_other_runs_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "model=rnn", "trainer.max_epochs=1")
    for path, expected in ((tmp_path / "none", "no run there"), (run, "not a pretraining")):
        (line,) = check(composed(*TINY, f"pretrained={path}"))
        assert expected in line and "imdb_lightning.pretrain" in line


def test_an_incomplete_pretraining_is_refused(tmp_path: Path) -> None:
    run = Run(run_of(tmp_path / "run", "model=rnn", "pretrain=vectors", "trainer.max_epochs=1"))
    cfg = composed(*TINY, f"pretrained={run.path}")
    assert check(cfg) == []
    metrics = run.metrics
    run.write_metrics(metrics | {"status": "interrupted"})
    (line,) = check(cfg)
    assert "interrupted" in line and f"resume={run.path}" in line
    run.write_metrics(metrics)
    run.vectors.unlink()
    (line,) = check(cfg)
    assert "there is no vectors.ckpt" in line


def test_other_reviews_are_refused(tmp_path: Path) -> None:
    """Another copy may have other reviews in val."""
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
    lines = [check(composed(*small, f"data.path={copy}", f"pretrained={path}")) for copy in copies]
    assert lines[0] == [] and "other reviews" in lines[1][0]


@pytest.mark.slow
def test_a_replaced_pretraining_is_noticed(vectors: Path, tmp_path: Path) -> None:
    """An interrupted run is not resumed with other initial weights."""
    before = tmp_path / "before"
    shutil.copytree(vectors, before)
    arguments = [*TINY, f"pretrained={before}"]
    path = run_of(tmp_path / "run", f"pretrained={before}", "trainer.max_epochs=1")
    train(composed(*arguments, "trainer.max_epochs=2", f"resume={path}"), path)
    weights = torch.load(Run(before).vectors, weights_only=True)
    weights["state_dict"]["embedding.weight"] += 1
    checkpoint.save(weights, Run(before).vectors)
    with pytest.raises(ResumeError, match="data.pretrained"):
        train(composed(*arguments, "trainer.max_epochs=3", f"resume={path}"), path)


def test_a_pretraining_on_val_is_refused_if_val_selects(tmp_path: Path) -> None:
    path = run_of(
        tmp_path / "run", "pretrain=vectors", "data.train_on_val=true", "trainer.max_epochs=1"
    )
    (line,) = check(composed(*TINY, f"pretrained={path}"))
    assert "data.train_on_val" in line
    assert check(composed(*TINY, f"pretrained={path}", "data.train_on_val=true")) == []


def test_words_of_the_same_reviews_have_similar_vectors() -> None:
    """Two topics of ten words each, which are never in one review."""
    random = np.random.default_rng(0)
    topics = random.integers(2, size=400)
    words_ND = 3 + topics[:, None] * 10 + random.integers(10, size=(400, 12))
    tokens_ND = np.concatenate([np.ones((400, 1), int), words_ND], axis=1).astype(np.int32)
    offsets = np.arange(401) * 13
    no_labels = np.zeros(400, np.int64)
    reviews = EncodedReviews(tokens_ND.ravel(), offsets, no_labels, no_labels)
    vectors, again = (
        skip_gram(reviews, 30, 8, window=5, negative_samples=5, epochs=20, seed=0) for _ in range(2)
    )
    np.testing.assert_array_equal(vectors, again)
    assert (vectors[[0, 1, 2]] == 0).all() and (vectors[23:] == 0).all()
    unit = vectors[3:23] / np.linalg.norm(vectors[3:23], axis=1, keepdims=True)
    near = unit @ unit.T
    assert near[:10, :10].mean() > near[:10, 10:].mean() + 0.5


def test_the_command_pretrains_and_names_the_next_one(tmp_path: Path) -> None:
    arguments = [*TINY, "model=rnn", "trainer.max_epochs=1", "hydra.run.dir=words"]
    done = command(tmp_path, *arguments, module="pretrain")
    assert done.returncode == 0, done.stderr
    assert "initialises a classifier" in done.stdout
    metrics = Run(tmp_path / "words").metrics
    assert (metrics["pretrain"], metrics["model"]) == ("vectors", "rnn")


def test_without_reviews_there_is_one_line(tmp_path: Path) -> None:
    """Not the synthetic corpus, which the pretraining has never seen."""
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
    done = command(tmp_path, "experiment=smoke", module="pretrain")
    assert done.returncode == 2
    assert "no pretraining is configured" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_grid_of_pretrainings(tmp_path: Path) -> None:
    """Twice: the second command finds it done."""
    arguments = ["-m", "seed=0,1", "data.seed=0", "hydra.sweep.dir=grid", "model=rnn"]
    for expected in ("2 of 2 runs done", "2 of 2 runs are already done"):
        done = command(tmp_path, *arguments, *TINY, module="pretrain")
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout
