"""The cache of encoded reviews: keyed by what it was made from, verified, built once.

pytest tests/data/test_cache.py
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from imdb_lightning.data import cache
from imdb_lightning.data.batches import EncodedReviews
from imdb_lightning.data.cache import Encoded, load_or_build
from tests.conftest import composed, some_reviews, write_parquet


KEY = {"fingerprint": "f", "max_length": 5}


class Builder:
    """Counts how often it builds."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Encoded:
        self.count += 1
        return an_encoding()


def an_encoding() -> Encoded:
    rows = np.arange(3)
    tokens = np.array([1, 7, 1, 8, 9, 1], np.int32)
    reviews = EncodedReviews(tokens, np.array([0, 2, 5, 6]), rows % 2, rows)
    return Encoded({"train": reviews, "val": reviews, "test": reviews}, "{}", {"vocab_size": 9})


def assert_equal(found: Encoded, expected: Encoded) -> None:
    assert (found.tokenizer_json, found.metadata) == (expected.tokenizer_json, expected.metadata)
    for name, reviews in expected.splits.items():
        for array in cache.ARRAYS:
            mine, theirs = getattr(found.splits[name], array), getattr(reviews, array)
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)


def test_the_second_time_it_is_read(tmp_path: Path) -> None:
    build = Builder()
    for _ in range(2):
        assert_equal(load_or_build(tmp_path / "new" / "cache", KEY, build), an_encoding())
    assert build.count == 1


@pytest.mark.parametrize("change", [{"fingerprint": "g"}, {"max_length": 6}, {"more": None}])
def test_another_key_is_another_entry(tmp_path: Path, change: dict) -> None:
    build = Builder()
    load_or_build(tmp_path, KEY, build)
    load_or_build(tmp_path, KEY | change, build)
    load_or_build(tmp_path, KEY, build)
    assert build.count == 2


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


FILES = [
    "manifest.json",
    "manifest.sha256",
    "tokenizer.json",
    "train-tokens.npy",
    "val-offsets.npy",
    "test-labels.npy",
    "train-index.npy",
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_corrupt_entry_is_rebuilt(
    tmp_path: Path, file: str, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    load_or_build(tmp_path, KEY, build)
    (victim,) = tmp_path.glob(f"*/{file}")
    assert callable(damage)
    damage(victim)
    assert_equal(load_or_build(tmp_path, KEY, build), an_encoding())
    assert build.count == 2
    assert "is corrupt" in caplog.text
    load_or_build(tmp_path, KEY, build)
    assert build.count == 2


def _slow_build(folder: str) -> None:
    def build() -> Encoded:
        Path(folder, f"built-by-{os.getpid()}").touch()
        time.sleep(0.5)
        return an_encoding()

    assert_equal(load_or_build(Path(folder, "cache"), KEY, build), an_encoding())


@pytest.mark.slow
def test_six_processes_at_once_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_slow_build, args=(str(tmp_path),)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert len(list(tmp_path.glob("built-by-*"))) == 1


def _killed_on_the_way(folder: str) -> None:
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]
    load_or_build(Path(folder), KEY, an_encoding)


@pytest.mark.slow
def test_a_killed_builder_leaves_no_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_killed_on_the_way, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.building-*"))) == 1
    build = Builder()
    assert_equal(load_or_build(tmp_path, KEY, build), an_encoding())
    assert build.count == 1
    assert list(tmp_path.glob("*.building-*")) == []


def test_an_unwritable_cache_is_built_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    build = Builder()
    for _ in range(2):
        assert_equal(load_or_build(tmp_path / "file" / "cache", KEY, build), an_encoding())
    assert build.count == 2
    assert "no cache for the encoded reviews" in caplog.text


ENCODING = {
    "vocab_size": 50,
    "max_length": 9,
    "truncation": "tail",
    "val_size": 6,
    "seed": 1,
}


def entries(path: Path, **options: object) -> int:
    """Entries in the cache after the reviews of `path` were set up with these options."""
    from imdb_lightning.data.datamodule import (
        ReviewDataModule,  # seconds, in each process of the tests above
    )

    changes = [f"data.{name}={value}" for name, value in options.items()]
    cfg = composed(f"data.path={path}", "data.val_size=4", *changes)
    ReviewDataModule(cfg.data, seed=0).setup()
    return sum(entry.is_dir() for entry in Path(cfg.data.cache_dir).iterdir())


@pytest.mark.parametrize("option", ENCODING)
def test_every_encoding_option_is_in_the_key(tmp_path: Path, option: str) -> None:
    data = write_parquet(tmp_path / "d", train=some_reviews(20), test=some_reviews(6, offset=20))
    assert entries(data) == 1
    assert entries(data) == 1
    assert entries(data, **{option: ENCODING[option]}) == 2


def test_the_content_of_the_source_is_in_the_key_and_its_place_is_not(tmp_path: Path) -> None:
    train, test = some_reviews(20), some_reviews(6, offset=20)
    data = write_parquet(tmp_path / "d", train=train, test=test)
    assert entries(data) == 1
    moved = data.rename(tmp_path / "elsewhere")
    assert entries(moved) == 1
    train["text"][3] += " Really."
    assert entries(write_parquet(moved, train=train, test=test)) == 2
    train["label"][3] = 1 - train["label"][3]
    assert entries(write_parquet(moved, train=train, test=test)) == 3
