"""A search: its space, its trials, what a kill leaves of it, and its page.

pytest tests/search
"""

from __future__ import annotations

import json
import math
import re
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from imdb_lightning.config.identity import config_hash
from imdb_lightning.config.overrides import check_command_line
from imdb_lightning.config.space import Dimension, dimension
from imdb_lightning.runs.run import Run
from imdb_lightning.search import page
from imdb_lightning.search.study import Pruner, Study, open_study, points, size
from tests.conftest import TINY, command, started


SWEEPER = {
    "n_trials": 12,
    "max_concurrent": 3,
    "sampler": "tpe",
    "n_startup_trials": 4,
    "pruner": "median",
    "pruner_startup_trials": 2,
    "n_warmup_epochs": 1,
}
# The longest run takes a second.
QUICK = (
    "model=custom_rnn hydra/sweeper=optuna hydra.sweeper.max_concurrent=2 "
    "hydra.sweeper.n_startup_trials=2 hydra.sweeper.pruner_startup_trials=1 "
    "hydra.sweep.dir=it hydra/launcher=basic"
).split()
SPACE = ["optim.lr=tag(log,interval(1e-3,0.1))", "model.dropout=0.0,0.5"]


def parsed(text: str) -> Dimension | None:
    (override,) = OverridesParser.create().parse_overrides([text])
    return dimension(override)


# The space


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.lr=0.1", None),
        ("optim.lr=choice(0.1)", None),
        ("model=gru,lstm", Dimension("model", ("gru", "lstm"))),
        ("model.dropout=interval(0,1)", Dimension("model.dropout", (), 0.0, 1.0)),
        ("x=int(interval(1,9))", Dimension("x", (), 1, 9, integer=True)),
        ("x=interval(1,9)", Dimension("x", (), 1.0, 9.0)),
        (
            "model.hidden_size=interval(8,64)",
            Dimension("model.hidden_size", (), 8, 64, None, False, True),
        ),
        ("optim.lr=tag(log,interval(1e-4,1))", Dimension("optim.lr", (), 1e-4, 1.0, None, True)),
        ("x=tag(log,int(interval(1,64)))", Dimension("x", (), 1, 64, None, True, True)),
        ("x=range(16,65,16)", Dimension("x", (), 16, 64, 16, False, True)),
        ("x=range(0,0.6,0.25)", Dimension("x", (), 0.0, 0.5, 0.25)),
    ],
)
def test_a_sweep_of_hydra_is_a_dimension(text: str, expected: Dimension | None) -> None:
    assert parsed(text) == expected


def test_a_number_is_short_and_within_its_ends() -> None:
    one = Dimension("x", (), 0.12344, 0.5)
    assert one.text(1 / 3) == "0.3333"
    assert one.text(0.12344) == "0.12344"
    assert Dimension("x", (), 0.0, 0.3, 0.1).text(0.1 + 0.2) == "0.3"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("optim.lr=interval(1e-4,1)", "an interval needs a search, -m hydra/sweeper=optuna"),
        ("-m optim.lr=interval(1e-4,1)", "an interval needs a search, -m hydra/sweeper=optuna"),
        ("hydra/sweeper=optuna optim.lr=0.1", "hydra/sweeper=optuna: add -m to search"),
        ("-m hydra/sweeper=optuna", "nothing to search"),
        ("-m hydra/sweeper=optuna seed=0,1", "seed: a search would choose the luckiest seed"),
        ("-m hydra/sweeper=optuna data=imdb,synthetic", "on other reviews cannot be compared"),
        ("-m hydra/sweeper=optuna optim.lr=interval(1,0.1)", "from a lower number to a higher one"),
        ("-m hydra/sweeper=optuna optim.lr=tag(log,interval(0,1))", "a log scale starts above 0"),
        ("-m hydra/sweeper=optuna optim.lr=tag(lgo,interval(1,2))", "no tag lgo"),
        ("-m hydra/sweeper=optuna optim.lr=interval(-1,1)", "optim.lr=-1.0: must be a number > 0"),
        ("-m hydra/sweeper=optuna model.hidden_size=8,8", "8 is there twice"),
        ("-m hydra/sweeper=optuna optim.lr=interval(0.0010001,0.0010004)", "is too narrow"),
        ("-m hydra/sweeper=optuna model=gru,rnn hydra/launcher=basic,local_pool", "has one value"),
        ("-m hydra/sweeper=optuna model.dropout=0.1,0.2 ++model.dropout=0", "nothing to search"),
        ("-m hydra/sweeper=optuna model=gru,rnn +hydra.sweeper.foo=1", "foo: no such key"),
        ("-m hydra/sweeper=optuna model=gru,rnn hydra.sweeper.params=5", "params must be keys"),
        ("-m hydra/sweeper=optuna hydra.sweeper.params={seed:'0,1'}", "the luckiest seed"),
        ("-m hydra/sweeper=optuna data.train_on_val=true,false", "cannot be compared"),
        ("-m hydra/sweeper=optuna trainer.devices=1,2", "the same for all trials"),
        ("-m hydra/launcher=basic trainer.devices=2", "needs hydra/launcher=local_pool or slurm"),
        ("-m trainer.num_nodes=2", "in a grid it needs hydra/launcher=slurm"),
        ("-m hydra/sweeper=optuna model=gru,lsmt", "did you mean lstm?"),
        (
            "-m hydra/sweeper=optuna model=gru,rnn hydra.sweeper.n_trials=0",
            "must be an integer >= 1",
        ),
        ("-m hydra/sweeper=optuna model=gru,rnn hydra.sweeper.sampler=tep", "one of tpe, random"),
    ],
)
def test_a_mistake_is_one_line(arguments: str, line: str) -> None:
    words = arguments.split()
    errors = check_command_line([w for w in words if w != "-m"], "-m" in words).errors
    assert [line in error for error in errors] == [True]


# Trials


@pytest.fixture
def space() -> list[Dimension]:
    texts = ["lr=tag(log,interval(1e-4,1e-1))", "size=32,64,128", "x=int(interval(1,9))"]
    return [one for one in map(parsed, texts) if one is not None]


def result_of(overrides: list[str]) -> float:
    lr = float(overrides[0].partition("=")[2])
    return 1 - abs(math.log10(lr) + 2) / 2


def searched(study: Study, seed: int = 0, at_once: int = 1, most: int = 100) -> list[list[str]]:
    """The overrides of all trials of a search that has `at_once` processes; ends after `most`."""
    running = [proposal for proposal in study.retry()]
    while most > 0:
        while len(running) < at_once and (proposal := study.propose(seed)):
            running.append(proposal)
        if not running:
            break
        ended = running.pop(-1 if at_once > 2 else 0)
        study.study.tell(ended.trial, result_of(ended.overrides))
        most -= 1
    return [study.overrides(trial.params) for trial in study.trials]


def test_the_trials_depend_on_neither_processes_nor_interruptions(
    tmp_path: Path, space: list[Dimension]
) -> None:
    found = []
    for number, at_once in enumerate((1, 2, 3)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(searched(Study(folder, space, SWEEPER), at_once=at_once))
    (tmp_path / "again").mkdir()
    for most in (1, 3, 2, 100):
        searched(Study(tmp_path / "again", space, SWEEPER), at_once=2, most=most)
    found.append(searched(Study(tmp_path / "again", space, SWEEPER)))
    assert len(found[0]) == 12
    assert found[1:] == [found[0]] * 3
    (tmp_path / "other").mkdir()
    assert searched(Study(tmp_path / "other", space, SWEEPER), seed=1) != found[0]


def test_a_sampler_that_learns_is_better_than_chance(
    tmp_path: Path, space: list[Dimension]
) -> None:
    means = {}
    for sampler in ("tpe", "random"):
        (tmp_path / sampler).mkdir()
        study = Study(tmp_path / sampler, space, SWEEPER | {"sampler": sampler, "n_trials": 40})
        results = [result_of(overrides) for overrides in searched(study)]
        means[sampler] = sum(results[20:]) / 20
    assert means["tpe"] > means["random"] + 0.1


def test_a_space_of_few_points_is_searched_once(tmp_path: Path) -> None:
    few = [Dimension("a", ("1", "2", "3")), Dimension("b", (), 2, 8, 2, False, True)]
    assert size(few) == 12 == len([*points(few)])
    study = Study(tmp_path, few, SWEEPER | {"n_trials": 100})
    trials = searched(study)
    assert len(trials) == 12 == len({tuple(overrides) for overrides in trials})
    assert study.is_complete


def test_a_trial_that_failed_runs_again_and_one_that_diverged_does_not(
    tmp_path: Path, space: list[Dimension]
) -> None:
    study = Study(tmp_path, space, SWEEPER)
    first, second = study.propose(0), study.propose(0)
    assert first is not None and second is not None
    study.fail(first.trial, "out of memory")
    study.fail(second.trial, "NaN", diverged=True)
    assert not study.is_complete
    (again,) = Study(tmp_path, space, SWEEPER).retry()
    assert again.overrides == first.overrides and again.trial == 2
    assert len(study.trials) == 2


def test_a_trial_is_pruned_by_those_that_it_was_proposed_after(
    tmp_path: Path, space: list[Dimension]
) -> None:
    study = Study(tmp_path, space, SWEEPER)
    (tmp_path / "sweep.json").write_text(json.dumps({"search": {"settings": SWEEPER}}))
    for accuracy in (0.8, 0.6, 0.7, 0.9, 0.9):
        proposal = study.propose(0)
        assert proposal is not None
        study.start(proposal.trial, f"run{proposal.trial}")
        if proposal.trial < 4:
            for epoch in (1, 2):
                study._trial(proposal.trial).report(accuracy, epoch)
            study.study.tell(proposal.trial, accuracy)
    pruner = Pruner.of(tmp_path / "run4")
    assert pruner is not None
    assert len(pruner.known) == 2  # trials 2 and 3 could have been running still
    assert not pruner.prunes({1: 0.1})
    assert pruner.prunes({1: 0.1, 2: 0.69})
    assert not pruner.prunes({1: 0.1, 2: 0.71})
    assert Pruner.of(tmp_path / "run0") is None and Pruner.of(tmp_path / "other") is None


def test_a_line_that_a_kill_has_cut_is_removed(tmp_path: Path, space: list[Dimension]) -> None:
    searched(Study(tmp_path, space, SWEEPER), most=2)
    log = tmp_path / "study.log"
    whole = log.read_bytes()
    with log.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    (tmp_path / "study.log.lock").symlink_to(log)
    study = Study(tmp_path, space, SWEEPER)
    assert log.read_bytes() == whole
    assert len(searched(study)) == 12


def test_another_file_of_that_name_is_kept(tmp_path: Path, space: list[Dimension]) -> None:
    (tmp_path / "study.log").write_bytes(b"my notes, without a newline")
    with pytest.raises(ValueError, match="not the study of a search"):
        Study(tmp_path, space, SWEEPER)
    assert (tmp_path / "study.log").read_bytes() == b"my notes, without a newline"


@pytest.mark.parametrize(
    "content", [b"\x00\x01", b"[]\n", b'{"op_code": 99}\n', b'{"op_code":4,"study_id":7}\n', b"{\n"]
)
def test_a_corrupt_study_is_one_line(
    tmp_path: Path, space: list[Dimension], content: bytes
) -> None:
    (tmp_path / "study.log").write_bytes(content)
    with pytest.raises(ValueError, match=r"study.log: not the study of a search"):
        open_study(tmp_path)


def test_the_page_says_what_mattered(tmp_path: Path, space: list[Dimension]) -> None:
    """Of a search whose result is a function of the rate alone; its runs have been removed."""
    described = {"space": {one.name: one._asdict() for one in space}, "settings": SWEEPER}
    (tmp_path / "sweep.json").write_text(json.dumps({"search": described}))
    searched(Study(tmp_path, space, SWEEPER | {"n_trials": 40}))
    found = page.read(tmp_path)
    assert next(iter(found.importance)) == "lr" and found.importance["lr"] > 0.5
    assert sum(found.importance.values()) == pytest.approx(1)
    (html,) = page.write(found, tmp_path, html_only=True)
    assert html.read_text("utf-8").count("<svg") == 4


# The command


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A search of a few runs, and what its command printed."""
    folder = tmp_path_factory.mktemp("search")
    done = command(folder, "-m", *TINY, *QUICK, *SPACE, "hydra.sweeper.n_trials=5")
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def test_a_search_runs_its_trials_and_names_the_best(quick: tuple[Path, str]) -> None:
    folder, output = quick
    found = page.read(folder / "it")
    assert len(found.trials) == 5 and {t.state for t in found.trials} <= {"done", "pruned"}
    assert found.best is not None and found.best.accuracy == max(
        t.accuracy or 0 for t in found.done
    )
    assert f"best val accuracy {found.best.accuracy:.4f}: {found.best.label}" in output
    for trial in found.trials:
        run = Run(trial.path)
        assert run.status == trial.state
        assert run.metrics["val/acc"] == trial.accuracy
        assert [*trial.epochs.values()] == [epoch["val/acc"] for epoch in run.metrics["epochs"]]
        assert run.predictions.exists() == (trial.state == "done")  # test is not looked at
        assert ("test/acc" in run.metrics) == (trial.state == "done")
        for override in trial.overrides:
            key, _, value = override.partition("=")
            group, name = key.split(".")
            assert float(run.config[group][name]) == float(value)


def test_its_study_is_optunas(quick: tuple[Path, str]) -> None:
    file = quick[0] / "it" / "study.log"
    study = optuna.load_study(
        study_name="imdb_lightning", storage=JournalStorage(JournalFileBackend(str(file)))
    )
    best = page.read(quick[0] / "it").best
    assert best is not None and study.best_value == best.accuracy
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.trials)


def test_the_best_is_an_experiment(quick: tuple[Path, str]) -> None:
    folder = quick[0] / "it"
    best = page.read(folder).best
    assert best is not None
    line = check_command_line(["experiment=best"], config_dir=str(folder))
    assert line.errors == []
    assert config_hash(line.jobs[0]) == config_hash(Run(best.path).config)


def test_the_page_shows_every_trial(quick: tuple[Path, str], tmp_path: Path) -> None:
    html = (quick[0] / "it" / "search.html").read_text("utf-8")
    assert html.count("<svg") == 3 + ("What mattered" in html)
    done = command(quick[0], "it", "--output", tmp_path / "docs", module="search")
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "docs" / "search.md").read_text("utf-8")
    assert len(re.findall(r"^\| \d+ \|", text, re.MULTILINE)) == 5
    for plot in re.findall(r"\((search_plots/\w+\.svg)\)", text):
        assert (tmp_path / "docs" / plot).read_text().count("<svg") == 1
    (tmp_path / "docs" / "search.md").write_text("mine")
    done = command(quick[0], "it", "--output", tmp_path / "docs", module="search")
    assert done.returncode == 2 and "not written by this command" in done.stderr
    done = command(tmp_path, "docs", module="search")
    assert done.returncode == 2 and "no such file" in done.stderr


@pytest.mark.slow
def test_the_same_command_has_nothing_to_do_and_more_trials_continue(
    quick: tuple[Path, str],
) -> None:
    folder, _ = quick
    before = page.read(folder / "it").trials
    done = command(folder, "-m", *TINY, *QUICK, *SPACE, "hydra.sweeper.n_trials=5")
    assert done.returncode == 0 and "5 of 5 trials have ended" in done.stdout
    done = command(folder, "-m", *TINY, *QUICK, *SPACE, "hydra.sweeper.n_trials=6")
    assert (done.returncode, done.stderr) == (0, "")
    after = page.read(folder / "it").trials
    assert len(after) == 6 and [t.overrides for t in after[:5]] == [t.overrides for t in before]
    done = command(folder, "-m", *TINY, *QUICK, *SPACE, "seed=1")
    assert done.returncode == 2 and "contains a search with another" in done.stderr
    grid = [text for text in QUICK if "sweeper" not in text]
    done = command(folder, "-m", *TINY, *grid, "seed=0,1")
    assert done.returncode == 2 and "contains a search; name a new hydra.sweep.dir" in done.stderr


CELL = """
from imdb_lightning.model.cells import RNNCell
class Cell(RNNCell):
    def __init__(self, *sizes, **options):
        import os
        if sizes[1] == 5 and os.path.exists("broken"):
            raise OSError("no space left")
        super().__init__(*sizes, **options)
"""


@pytest.mark.slow
def test_a_trial_that_fails_stops_no_other_and_runs_again(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CELL)
    arguments = [
        *("-m", *TINY, *QUICK, "model.cell._target_=mine.Cell", "model.hidden_size=4,5"),
        *("optim.lr=0.1,3e38", "hydra.sweeper.pruner=none"),
    ]

    def states() -> dict[str, str]:
        return {trial.label: trial.state for trial in page.read(tmp_path / "it").trials}

    (tmp_path / "broken").touch()
    done = command(tmp_path, *arguments)
    assert done.returncode == 1
    assert "no space left" in done.stdout and "rerun the same command to finish" in done.stdout
    expected = {
        "model.hidden_size=4 optim.lr=0.1": "done",
        "model.hidden_size=4 optim.lr=3e+38": "diverged",
    }
    broken = [f"model.hidden_size=5 optim.lr={lr}" for lr in ("0.1", "3e+38")]
    assert states() == expected | dict.fromkeys(broken, "failed")
    (tmp_path / "broken").unlink()
    done = command(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert states() == expected | dict(zip(broken, ("done", "diverged"), strict=True))


@pytest.mark.slow
def test_a_search_that_is_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    pool = [text for text in QUICK if "launcher" not in text]
    arguments = ["-m", *TINY, *pool, *SPACE, "hydra.sweeper.n_trials=8"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert command(whole, *arguments, "hydra.launcher.n_jobs=1").returncode == 0
    for how in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process = started(killed, *arguments)
        before = ended(killed)
        give_up = time.monotonic() + 120
        while ended(killed) < before + 1 and time.monotonic() < give_up:
            time.sleep(0.1)
        time.sleep(1.5)  # in the middle of the next ones
        process.send_signal(how)
        process.communicate(timeout=60)
    done = command(killed, *arguments)
    assert done.returncode == 0, done.stderr

    def trials(folder: Path) -> list[Any]:
        found = page.read(folder / "it").trials
        return [(t.overrides, t.state, t.accuracy, t.epochs) for t in found]

    assert trials(killed) == trials(whole)
    runs = [path for path in (killed / "it").iterdir() if (path / "metrics.json").exists()]
    assert len(runs) == 8


def ended(folder: Path) -> int:
    try:
        return sum(t.state in ("done", "pruned") for t in page.read(folder / "it").trials)
    except (OSError, ValueError):
        return 0


@pytest.mark.slow
def test_other_launchers_search_too(tmp_path: Path) -> None:
    own = [text for text in QUICK if "launcher" not in text]
    done = command(
        tmp_path,
        "-m",
        *TINY,
        *own,
        *SPACE,
        "hydra.sweeper.n_trials=4",
        "hydra/launcher=joblib",
    )
    assert done.returncode == 0, done.stderr
    assert len(page.read(tmp_path / "it").trials) == 4
