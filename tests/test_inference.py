"""A trained model answers as it did in training, and nothing that comes with it is run.

pytest tests/test_inference.py
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml

import imdb_lightning
from imdb_lightning.data.split import reviews_of_split
from imdb_lightning.inference import LoadError, load
from tests.conftest import run_of


MODELS = [
    "model=rnn model.pooling=max",
    "model=lstm model.num_layers=2 model.bidirectional=true",
    "model=gru model.pooling=last model.bidirectional=true test_checkpoint=best",
    "model=custom_rnn model.implementation=loop data.truncation=head_tail",
    "model=custom_lstm model.pooling=mean_padded",
    "model=custom_gru model.cell.reset=after data.truncation=tail model.pooling=mean_max",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("runs") / "run", "model=custom_lstm")


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The run, to be spoiled."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


# It answers as in training


@pytest.mark.parametrize("options", MODELS)
def test_predictions_are_those_of_the_test_in_training(options: str, tmp_path: Path) -> None:
    path = run_of(tmp_path / "run", *options.split())
    model = load(path)
    rows = pyarrow.parquet.read_table(path / "predictions.parquet")
    for name in ("val", "test"):
        mine = rows.filter(pyarrow.compute.field("split") == name)
        texts, label_N = reviews_of_split(model.data, name)
        assert np.allclose(model.logits(texts), mine["logit"].to_numpy(), atol=1e-5)
        assert np.array_equal(label_N, mine["label"].to_numpy() == 1)


def test_a_model_does_not_depend_on_todays_defaults(run: Path, monkeypatch: Any) -> None:
    before = load(run).predict(["a wonderful film"])
    monkeypatch.setattr("imdb_lightning.config.paths.conf_dir", lambda: Path("/nowhere"))
    assert load(run).predict(["a wonderful film"]) == before


def test_batch_mates_and_order_change_nothing(run: Path) -> None:
    model = load(run)
    texts = ["a superb film " * n for n in range(1, 20)] + ["awful", ""]
    together = model.predict(texts, batch_size=7)
    alone = [model.predict([text])[0] for text in texts]
    assert [p.label for p in together] == [p.label for p in alone]
    assert [p.logit for p in together] == pytest.approx([p.logit for p in alone], abs=1e-5)


def test_a_checkpoint_can_be_named(run: Path) -> None:
    by_run = load(run).predict(["a superb film"])
    assert load(run / "checkpoints" / "last.ckpt").predict(["a superb film"]) == by_run


def test_python_use(run: Path) -> None:
    (prediction,) = imdb_lightning.load(run).predict(["a superb film"])
    assert prediction.label in ("negative", "positive")
    assert 0.5 <= prediction.probability <= 1


def test_the_temperature_changes_probabilities_alone(copied: Path) -> None:
    before = load(copied).predict(["a superb film"])[0]
    metrics = json.loads((copied / "metrics.json").read_text("utf-8"))
    assert metrics["temperature"] > 0
    metrics["temperature"] *= 4
    (copied / "metrics.json").write_text(json.dumps(metrics))
    after = load(copied).predict(["a superb film"])[0]
    assert after.label == before.label and after.logit == before.logit
    assert after.probability < before.probability


TEXTS = {
    "empty": "",
    "blanks": " \t\n ",
    "one token": "superb",
    "unknown words": "xyzzy qwertz",
    "a megabyte": "superb film " * 90_000,
    "emoji": "\N{PILE OF POO}\N{THUMBS UP SIGN}",
    "another script": "\u975e\u5e38\u597d\u7684\u7535\u5f71",
    "NUL": "a superb\0film",
    "lone surrogate": "superb \ud800 film",
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_has_an_answer(run: Path, name: str) -> None:
    (prediction,) = load(run).predict([TEXTS[name]])
    assert np.isfinite(prediction.logit)
    assert 0.5 <= prediction.probability <= 1


# What cannot be loaded


def test_an_address_is_refused() -> None:
    with pytest.raises(LoadError, match="a URL; give a directory"):
        load("https://example.org/run")


def flip(file: Path) -> None:
    """One bit of a weight."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda r: shutil.rmtree(r), "no such run"),
        (lambda r: shutil.rmtree(r / ".hydra"), "neither a run directory nor an exported folder"),
        (lambda r: (r / "checkpoints/last.ckpt").unlink(), "no such checkpoint"),
        (lambda r: (r / "checkpoints/last.ckpt").write_bytes(b"x" * 100), "corrupt"),
        (lambda r: flip(r / "checkpoints/last.ckpt"), "checksum"),
        (lambda r: (r / "tokenizer.json").unlink(), "no such file"),
        (lambda r: (r / "tokenizer.json").write_text("{}"), "not a tokenizer"),
        (lambda r: (r / ".hydra/config.yaml").write_text("a: [b"), "corrupt"),
        (lambda r: (r / ".hydra/config.yaml").write_text("[]"), "not a run's configuration"),
        (lambda r: (r / "metrics.json").write_text("{"), "corrupt"),
    ],
)
def test_missing_and_corrupt_files_are_one_line(copied: Path, spoil: Any, expected: str) -> None:
    spoil(copied)
    with pytest.raises(LoadError, match=expected) as error:
        load(copied)
    assert len(str(error.value).splitlines()) == 1
    assert str(copied) in str(error.value)


# Nothing foreign is run


class Canary:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_checkpoint_is_refused_unopened(copied: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    checkpoint = copied / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {}, "evil": Canary(canary)}, checkpoint)
    with pytest.raises(LoadError, match="more than tensors, which is never loaded"):
        load(copied)
    checkpoint.write_bytes(pickle.dumps(Canary(canary), protocol=2))
    with pytest.raises(LoadError):
        load(copied)
    assert not canary.exists()


EVIL = {"_target_": "os.mkdir", "path": "CANARY"}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("model.cell", EVIL),
        ("model.cell._target_", "os.mkdir"),
        ("model.layer", EVIL),
        ("model.extra", EVIL),
        ("model.cell.reset", EVIL),
        ("data.extra", [1, [EVIL]]),
        ("data.path", EVIL),
        ("trainer.callbacks", [{"a": [EVIL]}]),
        ("extra", EVIL),
        ("model.vocab_size", "${oc.env:HOME}"),
        ("model.hidden_size", "${hydra:runtime.cwd}"),
        ("model.cell._target_", "${data.evil}"),
        ("model.pooling", "${oc.create:{_target_: os.mkdir}}"),
        ("model.num_layers", -1),
        ("model.hidden_size", 10**12),
        ("model.unknown", 1),
    ],
)
def test_a_foreign_configuration_is_refused(
    copied: Path, tmp_path: Path, where: str, value: Any
) -> None:
    canary = tmp_path / "canary"
    file = copied / ".hydra" / "config.yaml"
    content = yaml.safe_load(file.read_text("utf-8"))
    *path, last = where.split(".")
    node = content
    for key in path:
        node = node[key]
    node[last] = json.loads(json.dumps(value).replace("CANARY", str(canary)))
    content["data"]["evil"] = "os.mkdir"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(LoadError) as error:
        load(copied)
    assert len(str(error.value).splitlines()) == 1
    assert not canary.exists()


def test_yaml_that_would_make_an_object_is_refused(copied: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    file = copied / ".hydra" / "config.yaml"
    file.write_text(
        file.read_text("utf-8") + f"\nevil: !!python/object/apply:os.mkdir ['{canary}']\n"
    )
    with pytest.raises(LoadError, match="corrupt"):
        load(copied)
    assert not canary.exists()


def test_yaml_that_would_grow_without_end_is_refused(copied: Path) -> None:
    file = copied / ".hydra" / "config.yaml"
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    file.write_text(f"{file.read_text('utf-8')}\na0: &a0 [x]\n{levels}")
    with pytest.raises(LoadError, match="contains aliases"):
        load(copied)


def test_a_third_party_cell_is_loaded_with_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_cells.py").write_text(
        "from imdb_lightning.model.cells import RNNCell\nclass Mine(RNNCell):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cell = "model=custom_rnn model.implementation=loop model.cell._target_=own_cells.Mine"
    path = run_of(tmp_path / "run", *cell.split())
    with pytest.raises(
        LoadError, match="own_cells.Mine is not part of imdb_lightning; add --trust to run its code"
    ):
        load(path)
    assert load(path, trust=True).predict(["superb"])
