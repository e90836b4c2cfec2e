"""The one reader of files that anybody may have written: regular, bounded, and data alone.

A run directory may be a stranger's. Every file of it is read here or in `checkpoint.py`, with its
size checked before its content. Missing files raise OSError, all others ValueError.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

import yaml


MIB = 2**20
MAX_JSON = 4 * MIB  # bytes; the metrics of a thousand epochs have a third of it
MAX_YAML = MIB // 16  # a run's configuration has 3 KB; the parser takes half a second for this
MAX_DIGITS = 18  # of an integer
MAX_REFERENCED = 100  # characters of a value that another one refers to
# What a run's own configuration looks up outside of itself.
ENVIRONMENT = re.compile(r"oc\.env:IMDB_(DATA|LIGHTNING_CACHE)(,[^${}]*)?")


def read_bytes(file: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes."""
    # O_NONBLOCK: opening a pipe would wait for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(file, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            # Not `most`: that much memory would be allocated first.
            content = stream.read(status.st_size + 1) if status.st_size <= most else None
    finally:
        os.close(descriptor)
    if content is None or len(content) > status.st_size:
        raise ValueError(f"larger than {most / MIB:.3g} MiB, which no run writes")
    return content


def check_regular(file: Path) -> None:
    """Raises OSError, or ValueError if it is anything but a file, such as a pipe."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("not a regular file")


def read_text(file: Path, most: int) -> str:
    return read_bytes(file, most).decode("utf-8")


def read_json(file: Path, most: int = MAX_JSON) -> Any:
    """JSON with numbers that are finite and of a usual length."""
    return parse_json(read_text(file, most))


def parse_json(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:20]}: not a finite number")
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name}: not a finite number")


def read_yaml(file: Path) -> str:
    """The text of a YAML file without aliases, which could expand without bound."""
    text = read_text(file, MAX_YAML)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("contains aliases, which no run writes")
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return text


def check_interpolations(node: Any) -> None:
    """Raises ValueError if a value refers to more than a plain value of the same configuration.

    A reference to another reference could expand without bound, and a resolver could read the
    environment.
    """
    for value in _strings(node):
        for reference in re.findall(r"\$\{([^}]*)", value):
            if ENVIRONMENT.fullmatch(reference):
                continue
            found = _select(node, reference) if re.fullmatch(r"[\w.]+", reference) else None
            if found is None or "${" in found or len(found) > MAX_REFERENCED:
                raise ValueError(f"contains ${{{reference[:50]}}}, which no run writes")


def _strings(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for item in node.items() for part in item for text in _strings(part)]
    if isinstance(node, list):
        return [text for part in node for text in _strings(part)]
    return [node] if isinstance(node, str) else []


def _select(node: Any, path: str) -> str | None:
    for name in path.split("."):
        if not isinstance(node, dict) or name not in node:
            return None
        node = node[name]
    return None if isinstance(node, dict | list) else str(node)
