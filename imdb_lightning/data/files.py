"""Reviews in files: .txt with one per line; .csv, .jsonl and .parquet with a column text or review.

Files are read lazily, and never guessed at: a row that is not understood raises InputError with its
line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from .labels import LABELS, NO_LABEL


SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
TEXT, LABEL = ("text", "review"), ("label", "sentiment")  # columns, keys
LABEL_NAMES = {
    name: number
    for number, others in enumerate([("0", "neg", "false"), ("1", "pos", "true")])
    for name in (*others, LABELS[number])
}
BYTE_ORDER_MARKS = {  # the longer ones first
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
BINARY = {
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a parquet file",
    b"%PDF": "a PDF",
}
MAX_FIELD = 16 * 2**20  # characters of a review; the longest of IMDB has 13,704


class InputError(Exception):
    """Input that cannot be read, and why, in one line."""


class Row(NamedTuple):
    """One row of a table, with lower-case names of columns."""

    where: str  # for a message
    values: dict[str, Any]


def read_texts(file: Path) -> Iterator[str]:
    """The reviews of a file, one at a time. Raises InputError."""
    if file.suffix.lower() == ".txt":
        return _txt(_found(file))
    return (text for text, _ in rows(file))


def read_labelled(file: Path) -> tuple[list[str], np.ndarray]:
    """The reviews of a file and whether each is positive. Raises InputError."""
    pairs = list(rows(file, label_of))
    if not pairs:
        raise InputError(f"{file}: contains no reviews")
    texts, labels = zip(*pairs, strict=True)
    return list(texts), np.array(labels, bool)


def lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """One review per line. `name` is the stream's, for messages."""
    for _, line in numbered_lines(stream, name):
        yield line


def rows(
    file: Path, read_label: Callable[[str, Any], int] | None = None
) -> Iterator[tuple[str, int]]:
    """Each review of a table with its label; without `read_label`, labels are not looked at.

    `read_label` is called with the row's place, for a message, and its label. Raises InputError.
    """
    readers: dict[str, Callable[[Path], Iterator[Row]]]
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    suffix = file.suffix.lower()
    if suffix not in readers:
        allowed = readers if read_label else SUFFIXES
        raise InputError(f"{file}: must be one of {', '.join(allowed)}")
    for where, values in readers[suffix](_found(file)):
        text = values[column(where, list(values), TEXT)]
        label = NO_LABEL
        if read_label is not None:
            label = read_label(where, values[column(where, list(values), LABEL)])
        yield text_of(where, text), label


def text_of(where: str, value: Any) -> str:
    """The text of a row. Raises InputError."""
    if not isinstance(value, str):
        raise InputError(f"{where}: text is {str(value)[:40]!r}, not a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: text has half a character (a lone surrogate)") from None
    if len(value) > MAX_FIELD:
        raise InputError(f"{where}: text of {len(value):,} characters; is a quote never closed?")
    return value


def label_of(where: str, value: Any) -> int:
    """0 or 1, from 0, 1, false, true, neg, pos, negative, positive. Raises InputError."""
    name = str(value).strip().lower().removesuffix(".0")
    if name not in LABEL_NAMES:
        raise InputError(
            f"{where}: label {str(value)[:40]!r}: must be 0, 1, {LABELS[0]} or {LABELS[1]}"
        )
    return LABEL_NAMES[name]


def no_label_of(where: str, value: Any) -> int:
    """-1, which an unlabelled review has. Raises InputError."""
    if value != NO_LABEL:
        raise InputError(f"{where}: label {str(value)[:40]!r}: must be -1, which is none")
    return NO_LABEL


def column(where: str, names: Sequence[str], wanted: Sequence[str]) -> str:
    """The column of one of these names. Raises InputError."""
    for name in wanted:
        if names.count(name) > 1:
            raise InputError(f"{where}: two columns {name}")
        if name in names:
            return name
    raise InputError(
        f"{where}: no column {' or '.join(wanted)}; "
        f"its columns: {', '.join(repr(name)[1:-1] for name in names)[:200] or 'none'}"
    )


def _found(file: Path) -> Path:
    try:
        if file.is_file():
            return file
    except (OSError, ValueError):  # such as a name that is too long
        pass
    what = "not a file" if file.exists() else "no such file"
    raise InputError(f"{file}: {what}")


# Text


def numbered_lines(stream: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """The lines of a text in UTF-8, or with a byte-order mark in UTF-16 or UTF-32."""
    start = stream.readline()
    for magic, what in BINARY.items():
        if start.startswith(magic):
            raise InputError(f"{name}: {what}, not text")
    marks = [mark for mark in BYTE_ORDER_MARKS if start.startswith(mark)]
    encoding = BYTE_ORDER_MARKS[marks[0]] if marks else "utf-8"
    if encoding.startswith("utf-8"):
        contents = _chain(start, stream)
    else:  # its line ends are not those of bytes
        try:
            text = (start + stream.read()).decode(encoding)
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: not {encoding.upper()}: {error.reason}") from None
        contents = (line.encode() for line in io.StringIO(text))
        encoding = "utf-8"
    for number, line in enumerate(contents, 1):
        where = f"{name}, line {number}"
        if b"\0" in line:
            raise InputError(f"{where}: a NUL byte: not text in UTF-8")
        try:
            text = line.decode(encoding if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(
                f"{where}: not UTF-8; convert it, such as with iconv -f CP1252 -t UTF-8"
            ) from None
        yield number, text.rstrip("\r\n")


def _chain(start: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from rest


def _txt(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        yield from lines(stream, str(file))


# Tables


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(2 * MAX_FIELD)
    with file.open("rb") as stream:
        source = (f"{line}\n" for _, line in numbered_lines(stream, str(file)))
        table = csv.reader(source, strict=True, skipinitialspace=True)
        opened = 1  # the line on which a row begins
        try:
            header = next(table, None)
            if header is None:
                return
            names = [name.strip().lower() for name in header]
            column(f"{file}, line 1", names, TEXT)
            opened = table.line_num + 1
            for fields in table:
                where = f"{file}, line {opened}"
                opened = table.line_num + 1
                if not fields:
                    continue
                if len(fields) != len(names):
                    hint = "; quote texts that contain commas" if len(fields) > len(names) else ""
                    raise InputError(
                        f"{where}: {len(fields)} fields, the header has {len(names)}{hint}"
                    )
                yield Row(where, dict(zip(names, fields, strict=True)))
        except csv.Error as error:
            what = "a quote that is never closed" if "unexpected end" in str(error) else error
            raise InputError(f"{file}, line {opened}: {what}") from None


def _jsonl(file: Path) -> Iterator[Row]:
    with file.open("rb") as stream:
        for number, line in numbered_lines(stream, str(file)):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: {' '.join(str(error).split())[:200]}") from None
            row = {"text": row} if isinstance(row, str) else row
            if not isinstance(row, dict):
                raise InputError(f"{where}: neither an object nor a string")
            yield Row(where, {name.strip().lower(): value for name, value in row.items()})


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as content:
            names = content.schema_arrow.names
            plain = [name.strip().lower() for name in names]
            column(str(file), plain, TEXT)
            wanted = [n for n, p in zip(names, plain, strict=True) if p in (*TEXT, *LABEL)]
            for batch in content.iter_batches(batch_size=1_000, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(
                        f"{file}, row {number}",
                        {name.strip().lower(): value for name, value in row.items()},
                    )
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise InputError(
            f"{file}: unreadable parquet, after row {number}: {' '.join(str(error).split())[:200]}"
        ) from None
