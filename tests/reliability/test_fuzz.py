"""Whatever comes from outside gets an answer, or one line.

pytest -m slow tests/reliability/test_fuzz.py; python -m tests.reliability.fuzz --minutes 30
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imdb_lightning.config.schema import KEYS
from imdb_lightning.data.files import InputError, read_labelled, read_texts
from imdb_lightning.plan import CommandLineError, NothingToDoError, make_plan

from . import fuzz


CASES = 300
many = settings(
    max_examples=CASES,
    deadline=1_000 * fuzz.LIMIT,  # milliseconds
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
suffixes = st.sampled_from([".txt", ".csv", ".jsonl", ".parquet", ".CSV"])
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])
tables = st.tuples(
    st.sampled_from(["", "text\n", "text,label\n", "Review, Sentiment\n", '{"text": "']),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=60),
    encodings,
).map(lambda parts: (parts[0] + parts[1]).encode(parts[2]))


@pytest.mark.slow
@many
@given(suffix=suffixes, content=st.one_of(st.binary(max_size=80), tables))
def test_a_review_file_is_read_or_refused_in_one_line(
    suffix: str, content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / f"r{suffix}"
    file.write_bytes(content)
    fuzz.one_line(InputError, lambda: list(read_texts(file)))
    fuzz.one_line(InputError, lambda: read_labelled(file))


@pytest.mark.slow
@many
@given(texts=st.lists(st.text(st.characters(blacklist_characters="\n\r\0"), max_size=20)))
def test_a_text_file_has_a_review_for_each_line(texts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "r.txt"
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    file.write_text("".join(f"{text}\n" for text in ["first", *texts]), "utf-8", newline="")
    assert list(read_texts(file)) == ["first", *texts]


keys = st.one_of(st.sampled_from([*KEYS, "model", "data", "experiment"]), st.text(max_size=8))
overrides = st.tuples(st.sampled_from(["", "+", "~", "--"]), keys, st.text(max_size=8)).map(
    lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"
)


@pytest.mark.slow
@many
@given(words=st.lists(overrides, max_size=3))
def test_a_command_line_has_a_plan_or_one_line_for_each_error(words: list[str]) -> None:
    arguments = [*words, "data=synthetic"]
    fuzz.one_line((CommandLineError, NothingToDoError), lambda: make_plan(arguments))


@pytest.mark.slow
def test_changed_runs_files_and_command_lines(tmp_path: Path) -> None:
    original = fuzz.original_run(tmp_path)
    for seed in range(CASES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        fuzz.cases(original, folder, seed)
