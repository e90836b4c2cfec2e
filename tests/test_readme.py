"""What README.md says: its commands compose, its cell trains, its files are there.

pytest tests/test_readme.py
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from imdb_lightning import baselines
from imdb_lightning.config.overrides import check_command_line
from imdb_lightning.recipes import __main__ as recipes
from tests.conftest import TINY, command, environment


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    shlex.split(line.removeprefix("time "), comments=True)
    for block in blocks("sh")
    for line in block.splitlines()
    if line.strip()
]
BENCH = [words[3:] for words in COMMANDS if words[:3] == ["python", "-m", "imdb_lightning.bench"]]
REPORT = [words[3:] for words in COMMANDS if words[:3] == ["python", "-m", "imdb_lightning.report"]]
PRETRAIN = [
    words[3:] for words in COMMANDS if words[:3] == ["python", "-m", "imdb_lightning.pretrain"]
]
OURS = [words[3:] for words in COMMANDS if words[:3] == ["python", "-m", "imdb_lightning"]]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    kinds = {words[0] for words in COMMANDS}
    assert kinds <= {"make", "python", "pip"}
    assert len(OURS) > 5


@pytest.mark.parametrize("arguments", [*OURS, *PRETRAIN], ids=" ".join)
def test_commands_have_no_mistake(arguments: list[str]) -> None:
    overrides = [text for text in arguments if "=" in text]
    assert check_command_line(overrides, multirun="-m" in arguments).mistakes == []


@pytest.mark.parametrize(("name", "module"), [("recipes", recipes), ("baselines", baselines)])
def test_commands_of_the_recipes_have_no_mistake(name: str, module: ModuleType) -> None:
    start = ["python", "-m", f"imdb_lightning.{name}"]
    given = [words[3:] for words in COMMANDS if words[:3] == start]
    assert given
    for arguments in given:
        module.parser().parse_args(arguments)


@pytest.mark.parametrize("arguments", BENCH, ids=" ".join)
def test_bench_commands_have_no_mistake(arguments: list[str]) -> None:
    __main__.parser().parse_args(arguments)


@pytest.mark.parametrize("name", ["predict", "evaluate", "explain", "export", "demo"])
def test_commands_on_a_run_have_no_mistake(name: str) -> None:
    parser = import_module(
        "imdb_lightning.explain.__main__" if name == "explain" else f"imdb_lightning.{name}"
    ).parser()
    shown = [words[3:] for words in COMMANDS if words[2:3] == [f"imdb_lightning.{name}"]]
    assert shown
    for words in shown:
        parser.parse_args(words[: words.index("<")] if "<" in words else words)


@pytest.mark.parametrize("arguments", REPORT, ids=" ".join)
def test_report_commands_have_no_mistake(arguments: list[str]) -> None:
    __main__.parser().parse_args(arguments)


def test_make_report_runs_the_two_commands_shown() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for words in (["-m", "experiment=glob(report/*)"], ["imdb_lightning.report"]):
        assert any(set(words) <= set(command) for command in COMMANDS)
        assert all(word in makefile for word in words)


def test_make_has_the_targets() -> None:
    named = {words[1] for words in COMMANDS if words[0] == "make"}
    named |= set(re.findall(r"`make ([a-z]+)`", README))
    makefile = (ROOT / "Makefile").read_text()
    assert {"train", "test", "board", "check"} <= named
    assert [name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_the_mistakes_shown_are_those_that_are_reported(tmp_path: Path) -> None:
    (shown,) = blocks("console")
    first, *lines = shown.splitlines()
    done = command(tmp_path, *shlex.split(first)[4:])
    assert done.stderr.splitlines() == lines
    assert done.returncode == 2


def test_the_cell_shown_is_checked_and_trains(tmp_path: Path) -> None:
    cell, *_ = (block for block in blocks("python") if "class " in block)
    (tmp_path / "my_cells.py").write_text(cell)
    (check,) = [words for words in COMMANDS if words[:2] == ["python", "-c"]]
    subprocess.run(
        [sys.executable, *check[1:]], cwd=tmp_path, env=environment(tmp_path), check=True
    )
    (training,) = [words for words in OURS if "model.cell._target_=my_cells.MinimalCell" in words]
    done = command(tmp_path, *training, *TINY, "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr


def test_the_files_named_are_there() -> None:
    (tree,) = blocks("text")
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = line.strip().split("  ")[0]
        for name in names.split():
            assert (ROOT / Path(*folders[:depth], name)).exists(), name
        folders[depth:] = [names.split()[0]]
