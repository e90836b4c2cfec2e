"""README.md and docs/: every command parses, the cell trains, transcripts and links are right.

pytest tests/test_docs.py
"""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from imdb_lightning.cli import Parser
from imdb_lightning.config.overrides import check_command_line
from tests.conftest import TINY, command, python


ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
MODULES = {  # the commands with a parser of their own
    "predict": "predict",
    "evaluate": "evaluate",
    "demo": "demo",
    "baselines": "baselines",
    "explain": "explain.__main__",
    "export": "export.__main__",
    "recipes": "recipes.__main__",
    "report": "report.__main__",
    "search": "search.__main__",
    "bench": "bench.__main__",
    "kernel": "kernel",
    "tune": "tune.__main__",
}
OTHERS = {"make", "pip", "export", "wait", "eval", "torchrun", "srun"}  # and what a shell does


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of each command line, without comments, `time`, variables and brackets."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            line = re.sub(r"^(\(|time |\w+=\S+ )+", "", line.strip()).removesuffix(") &")
            if line and not line.startswith("#"):
                words = shlex.split(line, comments=True)
                if words[0] == "imdb-lightning":  # the console script
                    name = "" if words[1] == "train" else f".{words[1]}"
                    words = ["python", "-m", f"imdb_lightning{name}", *words[2:]]
                found.append(words)
    return found


COMMANDS = {page: commands(page) for page in PAGES}
ALL = [words for page in PAGES for words in COMMANDS[page]]
TRAINING = [
    words[2:]
    for words in ALL
    if words[:2] == ["python", "-m"] and words[2] in ("imdb_lightning", "imdb_lightning.pretrain")
]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    for words in ALL:
        module = words[2] if words[:2] == ["python", "-m"] else ""
        name = module.removeprefix("imdb_lightning").removeprefix(".")
        known = name in ("", "pretrain", "tests.reliability.kill_often", *MODULES)
        assert known or words[2] == "venv", words
        assert words[0] in {"python", *OTHERS}, words
    assert len(TRAINING) > 30


@pytest.mark.slow
@pytest.mark.parametrize("words", TRAINING, ids=" ".join)
def test_training_commands_have_no_mistake(words: list[str], tmp_path: Path) -> None:
    overrides = [text for text in words[1:] if "=" in text]
    config_dir = None
    if "--config-dir" in words:  # of a search, with its best configuration
        config_dir = str(tmp_path)
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "best.yaml").write_text("# @package _global_\nseed: 0\n")
    assert check_command_line(overrides, "-m" in words, config_dir).errors == []


@pytest.mark.parametrize("name", MODULES)
def test_other_commands_have_no_mistake(name: str) -> None:
    parser: Parser = import_module(f"imdb_lightning.{MODULES[name]}").parser()
    shown = [words[3:] for words in ALL if words[1:3] == ["-m", f"imdb_lightning.{name}"]]
    assert shown
    for words in shown:
        parser.parse_args(words[: words.index("<")] if "<" in words else words)


def test_make_report_runs_the_two_commands_shown() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for words in COMMANDS[README]:
        if "experiment=glob(report/*)" in words or words[2:] == [
            "imdb_lightning.report",
            "outputs/sweeps/report",
        ]:
            line = " ".join(f"'{text}'" if "*" in text else text for text in words[1:])
            assert f"$(BIN)/python {line}" in makefile


def test_make_has_the_targets() -> None:
    named = {words[1] for words in ALL if words[0] == "make"}
    for page in PAGES:
        named |= set(re.findall(r"`make ([a-z]+)\b", page.read_text("utf-8")))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert {"train", "test", "board", "check", "docs", "report", "setup"} <= named
    assert [name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


@pytest.mark.slow
def test_the_transcripts_are_those_of_the_commands(tmp_path: Path) -> None:
    """But for numbers and directories, which differ from machine to machine."""

    def shape(text: str) -> list[str]:
        lines = [re.sub(r"^.*/outputs/", "outputs/", line) for line in text.splitlines()]
        return [re.sub(r"\d+", "0", line) for line in lines]

    smoke, mistakes = blocks(README, "console")
    first, *lines = smoke.splitlines()
    done = command(tmp_path, *shlex.split(first)[4:])
    assert shape(done.stdout) == shape("\n".join(lines)), done.stderr
    first, *lines = mistakes.splitlines()
    done = command(tmp_path, *shlex.split(first)[4:])
    assert (done.stderr.splitlines(), done.returncode) == (lines, 2)


@pytest.mark.slow
def test_the_cell_shown_is_checked_and_trains(tmp_path: Path) -> None:
    cell, *_ = (block for block in blocks(README, "python") if "class " in block)
    (tmp_path / "my_cells.py").write_text(cell)
    (check,) = [words for words in COMMANDS[README] if words[:2] == ["python", "-c"]]
    done = python(tmp_path, *check[1:])
    assert done.returncode == 0, done.stderr
    (training,) = [w for w in TRAINING if "model.cell._target_=my_cells.MinimalCell" in w]
    arguments = [*training[1:], *TINY, "trainer.max_epochs=1", "hydra.run.dir=run"]
    done = command(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    shown = command(tmp_path, "run", "superb", "--trust", module="explain", PYTHONPATH=".")
    assert r"z_t = \sigma(V x_t + U h_{t-1})" in shown.stdout, shown.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?", text):
        assert f"def {test}" in (ROOT / file).read_text("utf-8") if test else (ROOT / file).exists()
    for file in re.findall(r"`((?:imdb_lightning|conf)/[\w/]+\.(?:py|yaml))`", text):
        assert (ROOT / file).exists() or "NAME" in file, file


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 250
