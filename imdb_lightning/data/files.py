"""Reviews in files: .txt with one a line; .csv, .jsonl and .parquet with a column text or review.

Bytes that are not UTF-8 become U+FFFD. Files are read lazily.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np


SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
TEXT, LABEL = ("text", "review"), ("label", "sentiment")  # columns, keys
LABEL_NAMES = {
    "0": False,
    "negative": False,
    "neg": False,
    "1": True,
    "positive": True,
    "pos": True,
}


class InputError(Exception):
    """Input that cannot be read, and why, in one line."""


def read_texts(file: Path) -> Iterator[str]:
    """The reviews of a file, one at a time. Raises InputError."""
    if file.suffix == ".txt":
        return _txt(_found(file))
    return (text for text, _ in rows(file, labelled=False))


def read_labelled(file: Path) -> tuple[list[str], np.ndarray]:
    """The reviews of a file and whether each is positive. Raises InputError."""
    pairs = list(rows(file, labelled=True))
    if not pairs:
        raise InputError(f"{file}: contains no reviews")
    texts, labels = zip(*pairs, strict=True)
    return list(texts), np.array(labels, bool)


def lines(stream: Iterable[bytes]) -> Iterator[str]:
    """One review a line."""
    for line in stream:
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def rows(file: Path, labelled: bool) -> Iterator[tuple[str, bool | None]]:
    """Each review of a table with its label, or None if `labelled` is false."""
    readers: dict[str, Callable[[Path], Iterator[tuple[str, dict[str, Any]]]]]
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if file.suffix not in readers:
        raise InputError(f"{file}: must be one of {', '.join(readers)}")
    text_name, label_name = "", ""
    for where, row in readers[file.suffix](_found(file)):
        if text_name not in row:
            text_name = column(where, list(row), TEXT)
        text = row[text_name]
        if not labelled:
            yield "" if text is None else str(text), None
            continue
        if label_name not in row:
            label_name = column(where, list(row), LABEL)
        label = str(row[label_name]).strip().lower().removesuffix(".0")
        if label not in LABEL_NAMES:
            raise InputError(
                f"{where}: label {row[label_name]!r}: must be 0, 1, negative or positive"
            )
        yield "" if text is None else str(text), LABEL_NAMES[label]


def column(where: str, names: Sequence[str], wanted: Sequence[str]) -> str:
    for name in wanted:
        if name in names:
            return name
    raise InputError(
        f"{where}: no column {' or '.join(wanted)}; "
        f"its columns: {', '.join(map(str, names)) or 'none'}"
    )


def _found(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    return file


def _txt(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        yield from lines(stream)


def _csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        table = csv.DictReader(line.replace("\0", "") for line in stream)
        if table.fieldnames is not None:
            column(str(file), list(table.fieldnames), TEXT)
        try:
            for row in table:
                where = f"{file}, line {table.line_num}"
                if None in row:  # csv's key for what has no column
                    count = len(table.fieldnames or ())
                    raise InputError(
                        f"{where}: {count + len(row[None])} fields, the header has {count}; quote "
                        "texts that contain commas"
                    )
                yield where, row
        except csv.Error as error:
            raise InputError(f"{file}, line {table.line_num}: {error}") from None


def _jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open("rb") as stream:
        for number, line in enumerate(lines(stream), 1):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: {error}") from None
            row = {"text": row} if isinstance(row, str) else row
            if not isinstance(row, dict):
                raise InputError(f"{where}: neither an object nor a string")
            yield where, row


def _parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.ParquetFile(file)
        names = content.schema_arrow.names
        column(str(file), names, TEXT)
        wanted = [name for name in (*TEXT, *LABEL) if name in names]
        for batch in content.iter_batches(batch_size=1_000, columns=wanted):
            for row in batch.to_pylist():
                yield str(file), row
    except pyarrow.ArrowException as error:
        raise InputError(f"{file}: {' '.join(str(error).split())[:200]}") from None
