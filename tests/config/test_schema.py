"""The schema: conf/, --help, the reference page and the constructors agree with it.

pytest tests/config/test_schema.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import lightning
import pytest
from omegaconf import OmegaConf

from imdb_lightning.callbacks.checkpoints import RunCheckpoint
from imdb_lightning.config.paths import conf_dir
from imdb_lightning.config.reference import help_text, markdown
from imdb_lightning.config.schema import GROUPS, KEYS, SCHEMA, flatten
from imdb_lightning.data.encode import encode
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.model.network import LAYER_KEYS, Network
from imdb_lightning.model.optimizers import OURS
from tests.conftest import composed


def values(*overrides: str) -> dict:
    return flatten(OmegaConf.to_container(composed(*overrides), resolve=True))


def names(group: str) -> set[str]:
    """Of the keys of a group, without the group."""
    keys = {key.name.removeprefix(f"{group}.") for key in SCHEMA if key.group == group}
    return {name.split(".")[0] for name in keys}


def arguments(function: object) -> set[str]:
    assert callable(function)
    return set(inspect.signature(function).parameters)


def test_conf_has_the_keys_and_defaults_of_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMDB_LIGHTNING_CACHE")
    default = ("", "data=imdb", "callbacks=default, early_stopping")
    expected = {
        key.name: key.default
        for key in SCHEMA
        if key.only in default or key.only.startswith("optim=adam,")
    }
    expected |= {"model.layer._target_": KEYS["model.layer._target_"].default}
    assert values() == {k: v for k, v in expected.items() if not KEYS[k].added}
    optional = {key.name: key.default for key in SCHEMA if key.only.startswith("model=custom")}
    found = values("model=custom_gru")
    assert set(optional) <= set(found)
    assert found["model.cell.reset"] == optional["model.cell.reset"]
    assert found["model.implementation"] == optional["model.implementation"]
    assert values("model=custom_lstm")["model.cell._target_"] == optional["model.cell._target_"]
    pretraining = values("pretrain=vectors")
    for key in SCHEMA:
        if key.group == "pretrain":
            assert pretraining[key.name] == key.default
        assert key.added or key.default is None or key.rule.accepts(key.default), key.name


def test_every_group_is_described_with_its_options() -> None:
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()} - {"hydra"}
    assert set(GROUPS) == groups
    for group in groups - {"experiment"}:
        for file in (conf_dir() / group).glob("[!_]*.yaml"):
            assert re.search(rf"\b{file.stem}\b", GROUPS[group]), (group, file.stem)


def test_help_and_the_reference_page_have_every_key() -> None:
    """make docs writes the page again."""
    page = (Path(conf_dir()).parent / "docs" / "configuration.md").read_text("utf-8")
    assert page == markdown()
    for key in SCHEMA:
        assert f"  {key.name}" in help_text()
        assert f"| `{key.name}` |" in page


def test_the_constructors_have_the_keys_of_the_schema() -> None:
    network = arguments(Network) - {"make_layer"}
    assert network | {"loss", *LAYER_KEYS} == names("model")
    assert {"optim", "schedule", "loss"} <= arguments(Classifier)
    assert set(OURS) <= names("optim")
    assert names("trainer") <= arguments(lightning.Trainer)
    assert names("checkpoint") == arguments(RunCheckpoint) - {"run", "run_logger", "resume_from"}
    assert arguments(encode) - {"official", "tokenizer_json"} <= names("data")
