"""The structure of the package: no circles, arrows in one direction, and its picture.

pytest tests/test_architecture.py
"""

from __future__ import annotations

import ast
import graphlib
import importlib.util
from pathlib import Path

import imdb_lightning


ROOT = Path(imdb_lightning.__file__).parent.parent
PACKAGE = ROOT / "imdb_lightning"
SPEC = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
assert SPEC is not None and SPEC.loader is not None
architecture = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(architecture)


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports within functions included."""
    files = sorted(PACKAGE.rglob("*.py"))
    graph = {file: set(architecture.modules_of(file)) - {file} for file in files}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
    graphlib.TopologicalSorter(architecture.imports()).prepare()


def test_the_model_knows_neither_data_nor_configuration() -> None:
    graph = architecture.imports()
    assert graph["model"] == graph["data"] == graph["config"] == graph["metrics"] == set()


def test_cells_import_torch_and_their_base_alone() -> None:
    for file in (PACKAGE / "model" / "cells").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, file
            elif isinstance(node, ast.ImportFrom):
                assert node.module in ("__future__", "torch", "typing", "collections.abc"), file


def test_the_top_level_is_what_a_person_can_type() -> None:
    assert len([*PACKAGE.glob("*.py")]) <= 14


def test_the_spine_is_short() -> None:
    assert len((PACKAGE / "train.py").read_text("utf-8").splitlines()) <= 150


def test_the_picture_is_of_this_code() -> None:
    """make docs draws it again."""
    assert (ROOT / "docs" / "architecture.svg").read_text("utf-8") == architecture.svg()


def test_every_part_has_its_line() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    parts = set(architecture.imports()) - {architecture.COMMANDS}
    assert {
        part for part in parts if f"`{part}/`" not in text and f"`{part}.py`" not in text
    } == set()
