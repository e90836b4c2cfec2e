"""Reviews from every kind of file, and the commands that answer them.

pytest tests/test_predict.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from imdb_lightning import predict
from imdb_lightning.data.files import InputError, read_labelled, read_texts
from tests.conftest import command, environment, run_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("runs") / "a run", "model=custom_lstm")


# Files


def test_text_files_hold_a_review_a_line(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_bytes("one\r\n\ntwo \u2028 three\nlast".encode())
    assert list(read_texts(tmp_path / "r.txt")) == ["one", "", "two \u2028 three", "last"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["txt", "TXT", "csv", "jsonl"])
def test_a_byte_order_mark_belongs_to_no_word(tmp_path: Path, suffix: str, encoding: str) -> None:
    texts = ["caf\u00e9", "dull"]
    content = {"txt": "\n".join(texts), "csv": "\n".join(["text", *texts])}
    content["jsonl"] = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    (tmp_path / f"r.{suffix}").write_text(content[suffix.lower()], encoding)
    assert list(read_texts(tmp_path / f"r.{suffix}")) == texts


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.txt", b"one\n\xe9t\xe9\n", "r.txt, line 2: not UTF-8"),
        ("r.txt", b"\x1f\x8b\x08\0", "r.txt: compressed by gzip, not text"),
        ("r.csv", b"PK\x03\x04\0\0", "r.csv: a zip archive, not text"),
        ("r.csv", b"text\na\0b\n", "r.csv, line 2: a NUL byte"),
        (
            "r.csv",
            b'text,label\nfine,1\n"open,0\nx,1\n',
            "line 3: a quote that is never closed",
        ),
        ("r.csv", b"text,label\nfine\n", "r.csv, line 2: 1 fields, the header has 2"),
        ("r.csv", b"text,text\na,b\n", "r.csv, line 1: two columns text"),
        ("r.jsonl", b'{"text": null}\n', "r.jsonl, line 1: text is 'None', not a string"),
        ("r.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: text has half a character"),
        ("r.jsonl", b"[" * 100_000, "r.jsonl, line 1: "),
    ],
)
def test_a_row_that_is_not_understood_is_refused_with_its_line(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        list(read_texts(tmp_path / name))
    assert expected in str(error.value) and len(str(error.value).splitlines()) == 1


def test_binary_and_corrupt_columns_of_parquet_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [b"a", b"b"]}), file)
    with pytest.raises(InputError, match="row 1: text is .*, not a string"):
        list(read_texts(file))
    random = np.random.default_rng(0).integers(97, 122, (500, 200), np.uint8)
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [row.tobytes().decode() for row in random]}), file
    )
    content = bytearray(file.read_bytes())
    content[100:5_000] = bytes(4_900)
    file.write_bytes(content)
    with pytest.raises(InputError, match="r.parquet: unreadable parquet, after row 0"):
        list(read_texts(file))


def test_names_of_columns_and_labels_are_read_alike_everywhere(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('Review, Sentiment\na,TRUE\n"b, c", neg\n')
    (tmp_path / "r.jsonl").write_text(
        '{"TEXT": "a", "label": true}\n{"text": "b, c", "Label": 0.0}\n'
    )
    for name in ("r.csv", "r.jsonl"):
        texts, label_N = read_labelled(tmp_path / name)
        assert texts == ["a", "b, c"] and label_N.tolist() == [True, False]


@pytest.mark.parametrize("name", ["text", "review"])
def test_tables_hold_a_review_a_row(tmp_path: Path, name: str) -> None:
    texts = ['with "quotes", commas', "two\nlines", "", "\N{GRINNING FACE}"]
    labels = [0, 1, 1, 0]
    rows = "".join(
        '"{}",{}\n'.format(t.replace('"', '""'), n) for t, n in zip(texts, labels, strict=True)
    )
    (tmp_path / "r.csv").write_text(f"{name},label\n{rows}", "utf-8")
    (tmp_path / "r.jsonl").write_text(
        "".join(
            json.dumps({name: t, "label": n}) + "\n" for t, n in zip(texts, labels, strict=True)
        )
    )
    table = pyarrow.table({name: texts, "label": labels})
    pyarrow.parquet.write_table(table, tmp_path / "r.parquet")
    for suffix in ("csv", "jsonl", "parquet"):
        assert list(read_texts(tmp_path / f"r.{suffix}")) == texts
        found, label_N = read_labelled(tmp_path / f"r.{suffix}")
        assert found == texts and np.array_equal(label_N, np.array(labels, bool))


def test_a_row_with_more_fields_than_the_header_is_refused(tmp_path: Path) -> None:
    text = "text\nfine\nwonderful, but then it turned awful, boring and the worst\n"
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(
        InputError, match="line 3: 3 fields, the header has 1; quote texts that contain commas"
    ):
        list(read_texts(tmp_path / "r.csv"))
    (tmp_path / "r.csv").write_text("text,label\nfine,1,\n")
    with pytest.raises(InputError, match="line 2: 3 fields, the header has 2"):
        read_labelled(tmp_path / "r.csv")


def test_labels_may_be_words(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("review,sentiment\na,positive\nb,Negative\nc,pos\n")
    assert read_labelled(tmp_path / "r.csv")[1].tolist() == [True, False, True]


def test_an_empty_file_has_no_reviews(tmp_path: Path) -> None:
    for suffix in ("txt", "csv", "jsonl"):
        (tmp_path / f"r.{suffix}").touch()
        assert list(read_texts(tmp_path / f"r.{suffix}")) == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.doc", b"x", "must be one of"),
        ("r.csv", b"a,b\n1,2\n", "no column text or review; its columns: a, b"),
        ("r.jsonl", b'{"text": "a"}\n{"b', "line 2"),
        ("r.jsonl", b"[1]\n", "line 1: neither an object nor a string"),
        ("r.parquet", b"PAR1", "r.parquet: "),
    ],
)
def test_an_unreadable_file_is_one_line(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected) as error:
        list(read_texts(tmp_path / name))
    assert name in str(error.value) and len(str(error.value).splitlines()) == 1
    with pytest.raises(InputError, match="no such file"):
        list(read_texts(tmp_path / "nowhere.txt"))


def test_an_unknown_label_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("text,label\na,0\nb,maybe\n")
    with pytest.raises(InputError, match="line 3: label 'maybe': must be 0"):
        read_labelled(tmp_path / "r.csv")


# Commands


def test_predict_answers_standard_input_line_by_line(run: Path, tmp_path: Path) -> None:
    lines = b"a superb film\n\n\xc3\xa9\n"
    done = command(tmp_path, run, "-", "--json", module="predict", stdin=lines)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert all(set(row) == {"index", "label", "probability", "logit"} for row in rows)
    (alone,) = command(tmp_path, run, "a superb film", module="predict").stdout.splitlines()
    label, probability = alone.split("\t")
    assert label == rows[0]["label"]
    assert float(probability) == pytest.approx(rows[0]["probability"], abs=1e-4)


@pytest.mark.slow
def test_predict_ends_quietly_if_the_reader_has_gone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("a superb film\n" * 10_000)
    with subprocess.Popen(
        [sys.executable, "-m", "imdb_lightning.predict", str(run), "--file", "many.txt"],
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "a"], "no such run"),
        (["https://x.org/run", "a"], "a URL"),
        (["RUN"], "give reviews"),
        (["RUN", "--file", "nowhere.csv"], "no such file"),
    ],
)
def test_mistakes_are_one_line(
    run: Path,
    arguments: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(run) if text == "RUN" else text for text in arguments]
    monkeypatch.setattr(sys, "argv", ["predict", *words])
    with pytest.raises(SystemExit) as exit_info:
        predict.main()
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("imdb_lightning.predict: ") and expected in line


def test_evaluate_agrees_with_training(run: Path, tmp_path: Path) -> None:
    done = command(tmp_path, run, "--json", module="evaluate")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert result["count"] == 16
    assert result["accuracy"] == metrics["test/acc"]
    assert result["loss"] == pytest.approx(metrics["test/loss"], rel=1e-4)
    low, high = result["accuracy_interval"]
    assert low < result["accuracy"] < high
    assert sum(result["confusion"].values()) == 16
    assert sum(group["count"] for group in result["by_words"]) == 16
    assert len(result["wrong"]) == round(16 * (1 - result["accuracy"]))
    assert [w["probability"] for w in result["wrong"]] == sorted(
        (w["probability"] for w in result["wrong"]), reverse=True
    )


def test_evaluate_reads_a_file_and_writes_for_people(run: Path, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("text,label\na superb film,1\nan awful film,0\n")
    done = command(tmp_path, run, "--file", "r.csv", module="evaluate")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for word in ("accuracy", "95 % interval", "F1", "AUC", "loss", "ECE", "confusion", "words"):
        assert word in text
