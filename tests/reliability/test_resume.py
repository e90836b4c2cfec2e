"""Which run is resumed, and from where; what cannot be resumed; signals.

pytest tests/reliability/test_resume.py; pytest -m slow tests/reliability/test_resume.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imdb_lightning.runs.run import Run, lock_directory
from tests.conftest import TINY, run_of, some_reviews, write_parquet
from tests.conftest import command as fresh_command

from .processes import (
    SMALL,
    STEP,
    Moment,
    command,
    differences,
    output_of,
    run,
    started,
)


pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and the fork server are POSIX's")


@pytest.mark.slow
def test_more_epochs_equal_an_uninterrupted_longer_run(
    uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    run(tmp_path, *SMALL, "trainer.max_epochs=2")
    assert command(tmp_path, "resume=run", "trainer.max_epochs=3") == 0, output_of(tmp_path)
    assert differences(uninterrupted(), tmp_path / "run") == []
    assert Run(tmp_path / "run").config.trainer.max_epochs == 3
    assert command(tmp_path, "resume=run") == 0
    assert "run is done; set a larger trainer.max_epochs" in output_of(tmp_path)


@pytest.mark.slow
def test_a_moved_run_is_resumed_and_evaluated(
    uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    run(tmp_path, *SMALL, moment=Moment(STEP, 18))
    place = tmp_path / "another place, with = and 'quotes'"
    (tmp_path / "run").rename(place)
    quoted = str(place).replace("'", "\\'")
    assert command(tmp_path, f"resume='{quoted}'") == 0, output_of(tmp_path)
    assert differences(uninterrupted(), place) == []
    from imdb_lightning import load

    assert len(load(place).predict(["a film"])) == 1


# What cannot be resumed


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    run(folder, *SMALL, moment=Moment(STEP, 18))
    return folder


@pytest.fixture
def copied(half: Path, tmp_path: Path) -> Path:
    shutil.copytree(half / "run", tmp_path / "run")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != "train.log"]
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("model.hidden_size=16", ["model.hidden_size: 8 in the run, 16 now"]),
        ("data.vocab_size=50 seed=3", ["data.vocab_size: ", "seed: 0 in the run, 3 now"]),
        ("model=gru", ["model.layer._target_: torch.nn.LSTM in the run, torch.nn.GRU now"]),
        ("trainer.max_epochs=1", ["trainer.max_epochs=1: the run already has 1 epochs"]),
        ("model.hidden=1", ["no key model.hidden"]),
    ],
)
def test_another_configuration_is_refused_by_its_keys(
    copied: Path, arguments: str, expected: list[str]
) -> None:
    if "max_epochs" in arguments:  # as far as this one has come
        metrics = Run(copied / "run").metrics
        Run(copied / "run").write_metrics({**metrics, "epochs": metrics["epochs"] * 2})
        expected = ["trainer.max_epochs=1: the run already has 2 epochs"]
    before = contents(copied / "run")
    assert command(copied, "resume=run", *arguments.split()) == 2
    assert all(line in output_of(copied) for line in expected), output_of(copied)
    assert contents(copied / "run") == before


@pytest.mark.parametrize(
    "foreign",
    [
        "+hydra.callbacks.x={_target_:shutil.copy,src:/etc/hostname,dst:stolen}",
        "model@hydra.callbacks.x=gru",
        pytest.param("hydra/launcher=joblib", marks=pytest.mark.slow),
        pytest.param("+hydra@experiment=x", marks=pytest.mark.slow),
        pytest.param("oops.seed=1", marks=pytest.mark.slow),
    ],
)
def test_overrides_that_no_run_writes_are_refused(copied: Path, foreign: str) -> None:
    file = copied / "run" / ".hydra" / "overrides.yaml"
    file.write_text(file.read_text("utf-8") + f"- {json.dumps(foreign)}\n")
    before = contents(copied / "run")
    assert command(copied, "resume=run") == 2
    assert f"overrides.yaml contains {foreign!r}, which no run writes" in output_of(copied)
    assert contents(copied / "run") == before and not (copied / "stolen").exists()


def test_a_one_cycle_schedule_has_a_fixed_length(copied: Path) -> None:
    """More epochs would be another course over those that are done."""
    run = Run(copied / "run")
    cfg = run.config
    cfg.schedule = {"name": "one_cycle", "pct_start": 0.3, "div_factor": 25}
    run.write_config(cfg)
    before = contents(copied / "run")
    longer = ("schedule=one_cycle", "trainer.max_epochs=9")
    assert command(copied, "resume=run", *longer) == 2
    assert "the run's learning rate schedule" in output_of(copied)
    assert contents(copied / "run") == before


@pytest.mark.slow
def test_other_reviews_are_refused(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data", train=some_reviews(60), test=some_reviews(20, 100))
    options = [*TINY, "data=imdb", "data.path=data", "checkpoint.every_steps=2"]
    options = [
        text for text in options if text not in ("data=synthetic",) and "size=64" not in text
    ]
    options = [text for text in options if "test_size" not in text]
    run(tmp_path, *options, moment=Moment(STEP, 5))
    before = contents(tmp_path / "run")
    shutil.rmtree(data)
    write_parquet(data, train=some_reviews(60, 5), test=some_reviews(20, 100))
    assert command(tmp_path, "resume=run") == 1
    assert "tokenizer.json does not match these reviews" in output_of(tmp_path)
    (tmp_path / "run" / "tokenizer.json").unlink()
    assert command(tmp_path, "resume=run") == 1
    assert "data.fingerprint: " in output_of(tmp_path)
    del before[str(tmp_path / "run" / "tokenizer.json")]
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_resuming_no_run_is_one_line(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    assert command(tmp_path, f"resume={path}") == 2
    assert len(output_of(tmp_path).splitlines()) == 1 and str(tmp_path / path) in output_of(
        tmp_path
    )


def test_a_locked_run_is_refused(copied: Path) -> None:
    lock = lock_directory(copied / "run")
    assert lock is not None
    before = contents(copied / "run")
    try:
        assert command(copied, "resume=run") == 2
    finally:
        os.close(lock)
    assert "another process is working in it" in output_of(copied)
    assert contents(copied / "run") == before


def test_a_grid_refuses_resume(tmp_path: Path) -> None:
    assert command(tmp_path, "-m", "resume=auto", "seed=0,1") == 2
    assert "a grid resumes by itself" in output_of(tmp_path)


# Which one is resumed


@pytest.mark.slow
def test_auto_takes_the_newest_unfinished_run_of_this_configuration(copied: Path) -> None:
    outputs = copied / "outputs"
    for name in ("first", "second"):
        shutil.copytree(copied / "run", outputs / name)
        time.sleep(0.02)
        os.utime(outputs / name / "metrics.json")
    other = [*SMALL, "seed=1", "resume=auto"]
    assert command(copied, *other) == 0  # no run with this seed: a new one
    assert "no unfinished run of this configuration: starting a new one" in output_of(copied)
    assert command(copied, *SMALL, "resume=auto", "checkpoint.every_steps=5") == 0
    statuses = {path.name: Run(path).metrics["status"] for path in outputs.iterdir()}
    assert statuses.pop("first") == "running" and statuses.pop("second") == "done"
    assert list(statuses.values()) == ["done"]


@pytest.mark.slow
def test_auto_resumes_a_run_on_the_fallback(tmp_path: Path) -> None:
    """Without reviews a run uses the synthetic corpus, and so does resuming it."""
    options = [text for text in SMALL if text != "data=synthetic"] + ["resume=auto"]
    assert command(tmp_path, *options, moment=Moment(STEP, 18)) == -signal.SIGKILL
    assert command(tmp_path, *options) == 0, output_of(tmp_path)
    (path,) = (tmp_path / "outputs").iterdir()
    assert Run(path).metrics["status"] == "done" and Run(path).metrics["dataset"] == "synthetic"


def test_a_users_files_in_a_run_directory_are_kept(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    mine = [tmp_path / "run" / "events.out.tfevents.1.mine", tmp_path / "run" / ".precious.tmp"]
    for file in mine:
        file.write_text("mine")
    run(tmp_path, *SMALL, "trainer.max_epochs=1")
    assert [file.read_text("utf-8") for file in mine] == ["mine", "mine"]


# Checkpoints that do not verify


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [flip, *(pytest.param(way, marks=pytest.mark.slow) for way in (cut, empty, Path.unlink))],
)
def test_the_latest_intact_checkpoint_is_used(
    copied: Path, uninterrupted: Callable[..., Path], damage: Callable[[Path], None]
) -> None:
    damage(copied / "run" / "checkpoints" / "last.ckpt")
    assert command(copied, "resume=run") == 0, output_of(copied)
    if damage is not Path.unlink:
        assert "last.ckpt: corrupt" in output_of(copied)
        assert "resuming from " in output_of(copied) and "best.ckpt" in output_of(copied)
    assert "resuming after epoch 1" in output_of(copied)
    assert differences(uninterrupted(), copied / "run") == []


def test_without_an_intact_checkpoint_nothing_is_changed(copied: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        flip(copied / "run" / "checkpoints" / name)
    before = contents(copied / "run")
    assert command(copied, "resume=run") == 1
    (line,) = output_of(copied).splitlines()
    assert "last.ckpt: corrupt" in line and "best.ckpt: corrupt" in line and "remove" in line
    assert contents(copied / "run") == before


def test_a_corrupt_best_checkpoint_is_reported_before_training(copied: Path) -> None:
    flip(copied / "run" / "checkpoints" / "best.ckpt")
    config = copied / "run" / ".hydra" / "config.yaml"
    config.write_text(
        config.read_text("utf-8").replace("test_checkpoint: last", "test_checkpoint: best")
    )
    assert command(copied, "resume=run", "test_checkpoint=best") == 1
    assert "best.ckpt: test_checkpoint=best needs it" in output_of(copied)


@pytest.mark.slow
def test_a_done_run_without_checkpoints_is_not_changed(copied: Path) -> None:
    assert command(copied, "resume=run") == 0
    shutil.rmtree(copied / "run" / "checkpoints")
    before = contents(copied / "run")
    assert command(copied, "resume=run", "trainer.max_epochs=4") == 1
    assert "is done, and has no checkpoint to resume from" in output_of(copied)
    assert contents(copied / "run") == before


@pytest.mark.slow
def test_a_corrupt_tokenizer_or_metrics_file_is_noticed(
    copied: Path, uninterrupted: Callable[..., Path]
) -> None:
    tokenizer = copied / "run" / "tokenizer.json"
    flip(tokenizer)
    assert command(copied, "resume=run") == 1
    assert "tokenizer.json does not match" in output_of(copied)
    tokenizer.unlink()
    cut_short = copied / "run" / "metrics.json"
    cut_short.write_text(cut_short.read_text("utf-8")[:50])
    assert command(copied, "resume=run") == 0, output_of(copied)
    assert differences(uninterrupted(), copied / "run") == []


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    path = run_of(tmp_path / "run")
    shutil.copy(path / ".hydra" / "config.yaml", path / ".hydra" / "kept")
    (path / ".hydra" / "overrides.yaml").write_text(json.dumps(TINY))
    metrics = Run(path).metrics
    Run(path).write_metrics({**metrics, "status": "interrupted"})
    for name in ("last.ckpt", "best.ckpt"):
        file = path / "checkpoints" / name
        old = torch.load(file, weights_only=True)
        torch.save({key: old[key] for key in ("state_dict", "epoch", "global_step")}, file)
    done = fresh_command(tmp_path, "resume=run")
    assert done.returncode == 1
    assert "of another version: it lacks" in done.stdout + done.stderr


def test_temporary_files_of_a_killed_process_are_removed(copied: Path) -> None:
    left = [
        copied / "run" / ".metrics.json.1234.tmp",
        copied / "run" / "checkpoints" / ".last.ckpt.1234.tmp",
    ]
    for file in left:
        file.write_bytes(b"half")
    assert command(copied, "resume=run") == 0
    assert not any(file.exists() for file in left)


# Signals


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow, id="SIGTERM"),
        pytest.param(signal.SIGINT, 130, id="SIGINT"),
    ],
)
def test_a_signal_saves_after_the_step_and_exits(
    number: int, code: int, uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    options = [*SMALL, "trainer.max_epochs=100000", "checkpoint.every_steps=null"]
    process = started(tmp_path, *options, "hydra.run.dir=run")
    wait_for_an_epoch(tmp_path / "run")
    os.kill(process.pid or 0, number)
    process.join(10)
    assert process.exitcode == code
    path = tmp_path / "run"
    assert Run(path).metrics["status"] == "interrupted"
    assert f"resume={path} continues from here" in output_of(tmp_path)
    at = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["progress"]
    config = path / ".hydra" / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("max_epochs: 100000", "max_epochs: 3"))
    longer = at["epoch"] + 2
    assert command(tmp_path, "resume=run", f"trainer.max_epochs={longer}") == 0, output_of(tmp_path)
    same = ("checkpoint.every_steps=null", f"trainer.max_epochs={longer}")
    assert differences(uninterrupted(*same), path) == []


def wait_for_an_epoch(path: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (path / "checkpoints" / "last.ckpt").exists():
            return
        time.sleep(0.02)
    raise AssertionError("the run did not begin")


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    options = [*SMALL, "model=custom_lstm", "model.implementation=loop", "data.train_size=8000"]
    process = started(
        tmp_path,
        *options,
        "data.batch_size=8000",
        "model.hidden_size=64",
        "data.max_length=400",
        "trainer.max_epochs=1000",
        "hydra.run.dir=run",
    )
    until = time.monotonic() + 60
    while "train, " not in (output_of(tmp_path) if (tmp_path / "output.txt").exists() else ""):
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(1)  # into a step, which takes seconds
    os.kill(process.pid or 0, signal.SIGTERM)
    time.sleep(1.2)
    os.kill(process.pid or 0, signal.SIGINT)
    began = time.monotonic()
    process.join(30)
    assert process.exitcode == 130
    assert time.monotonic() - began < 0.5
    assert Run(tmp_path / "run").metrics["status"] == "running"  # there was no time to say more


@pytest.mark.slow
def test_a_command_that_was_killed_is_resumed(
    uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    """As a user would see it: python -m imdb_lightning, killed, and resume=RUN."""
    from tests.conftest import environment

    arguments = [*SMALL, "hydra.run.dir=run"]
    command_line = [os.sys.executable, "-m", "imdb_lightning", *arguments]  # type: ignore[attr-defined]
    process = subprocess.Popen(
        command_line, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL
    )
    wait_for_an_epoch(tmp_path / "run")
    process.kill()
    process.wait()
    done = fresh_command(tmp_path, "resume=run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert differences(uninterrupted(), tmp_path / "run") == []


@pytest.mark.slow
def test_one_run_of_a_grid_is_resumed(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    grid = (
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 3,4\n"
    )
    (tmp_path / "mine" / "experiment" / "two.yaml").write_text(grid)
    mine = ["--config-dir", "mine"]
    options = [*mine, "experiment=two", *SMALL, "hydra/launcher=basic", "hydra.sweep.dir=grid"]
    assert command(tmp_path, *options, moment=Moment(STEP, 48)) == -signal.SIGKILL
    runs = [file.parent for file in (tmp_path / "grid").glob("*/metrics.json")]
    (name,) = [path.name for path in runs if Run(path).metrics["status"] == "running"]
    assert command(tmp_path, *mine, f"resume='grid/{name}'") == 0, output_of(tmp_path)
    assert differences(uninterrupted("seed=4"), tmp_path / "grid" / name) == []
    assert command(tmp_path, *options) == 0
    assert "2 of 2 runs are already done" in output_of(tmp_path)
