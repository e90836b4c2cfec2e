"""Plans: what a command line means. Nothing is run, created or changed.

pytest tests/test_plan.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imdb_lightning.plan import CommandLineError, NothingToDoError, make_plan
from imdb_lightning.runs.run import Run
from tests.conftest import TINY, run_of


@pytest.fixture(autouse=True)
def nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["imdb_lightning", "untouched"])


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A run that was interrupted."""
    path = run_of(tmp_path / "outputs" / "run")
    (path / ".hydra" / "overrides.yaml").write_text("".join(f"- {text}\n" for text in TINY))
    Run(path).write_metrics(Run(path).metrics | {"status": "interrupted"})
    return path


def test_a_run_has_one_directory() -> None:
    plan = make_plan([*TINY, "hydra.run.dir=mine"])
    assert plan.directory == Path("mine").absolute() and plan.grid is None
    assert plan.arguments[: len(TINY)] == list(TINY)
    assert plan.arguments[-1] == f"hydra.run.dir='{plan.directory}'"
    assert sys.argv == ["imdb_lightning", "untouched"]
    assert not plan.directory.exists()


def test_a_grid_has_its_jobs() -> None:
    plan = make_plan(["-m", *TINY, "seed=0,1", "hydra.sweep.dir=grid"])
    assert plan.directory is None and plan.grid is not None
    assert [cfg.seed for cfg in plan.grid.jobs] == [0, 1]
    assert plan.arguments[0] == "-m" and not Path("grid").exists()


def test_an_option_may_stand_between_overrides() -> None:
    plan = make_plan([TINY[0], "-m", *TINY[1:], "seed=0,1", "hydra.sweep.dir=grid"])
    assert plan.grid is not None and [cfg.seed for cfg in plan.grid.jobs] == [0, 1]
    assert plan.arguments[:2] == ["-m", TINY[0]]


def test_help_and_show_need_no_run() -> None:
    assert make_plan(["--help"]).wants_help
    plan = make_plan(["--cfg", "job", *TINY])
    assert plan.directory is None and plan.arguments == ["--cfg", "job", *TINY]


def test_a_run_is_resumed_with_its_own_overrides(unfinished: Path) -> None:
    plan = make_plan([f"resume={unfinished}", "trainer.max_epochs=3"])
    assert plan.directory == unfinished
    assert {"data.batch_size=8", "trainer.max_epochs=3", f"resume='{unfinished}'"} <= set(
        plan.arguments
    )


def test_auto_finds_the_unfinished_run(unfinished: Path) -> None:
    assert make_plan([*TINY, "resume=auto"]).directory == unfinished
    plan = make_plan([*TINY, "resume=auto", "seed=9"])
    assert plan.directory != unfinished and "resume=null" in plan.arguments
    assert plan.notes == ("no unfinished run of this configuration: starting a new one",)


def test_a_finished_run_has_nothing_to_do(unfinished: Path) -> None:
    Run(unfinished).write_metrics(Run(unfinished).metrics | {"status": "done"})
    with pytest.raises(NothingToDoError, match="is done; set a larger trainer.max_epochs"):
        make_plan([f"resume={unfinished}"])


def test_without_reviews_the_fallback_is_part_of_the_configuration() -> None:
    plan = make_plan(["trainer=cpu"])
    assert "data.name=synthetic" in plan.arguments
    assert plan.warnings[1] == "training on the synthetic corpus instead"
    assert plan.directory is not None and "_synthetic_" in plan.directory.name


WRONG = {
    ("modle=gru", "seed=-1"): ["modle=gru: no key", "seed=-1: must be an integer"],
    ("--cfg", "job", "-m", "seed=0,1"): ["--cfg shows one configuration"],
    ("--cfg", "job", "seed=0,1"): ["add -m"],
    ("--config-name", "mine"): ["put yours into --config-dir"],
    ("-m", "seed=0,1", "resume=auto"): ["a grid resumes by itself"],
    ("resume=nowhere",): ["resume=", "no such directory"],
    ("data.fallback=null",): ["no reviews here"],
    ("trainer=cpu", "data=synthetic", "model=custom_rnn", "model.cell._target_=no.Cell"): [
        "model.cell._target_=no.Cell: ModuleNotFoundError"
    ],
}


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_mistakes_are_lines_and_nothing_is_created(argv: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(CommandLineError) as error:
        make_plan(argv)
    text = "\n".join(error.value.args)
    assert [part for part in WRONG[argv] if part not in text] == []
    assert list(tmp_path.iterdir()) == []


def test_the_pretraining_command_refuses_classifiers() -> None:
    with pytest.raises(CommandLineError, match="no pretraining is configured"):
        make_plan([*TINY], pretraining=True)
