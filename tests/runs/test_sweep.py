"""A grid's directory: what is done is found again, what is not is put aside, nothing is lost.

pytest tests/runs/test_sweep.py
"""

from __future__ import annotations

import errno
import json
import os
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from imdb_lightning.config.identity import config_hash
from imdb_lightning.data import sources
from imdb_lightning.runs import sweep
from imdb_lightning.runs.run import Run, RunExistsError, RunLockedError, is_locked, lock_directory
from imdb_lightning.runs.sweep import Sweep, is_done
from imdb_lightning.train import train
from tests.conftest import TINY, composed, some_reviews, write_parquet


def finished(path: Path, cfg: DictConfig) -> Path:
    """The files of a run of this configuration that a sweep reads."""
    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, path / ".hydra" / "config.yaml")
    (path / "metrics.json").write_text(json.dumps({"status": "done", "val/acc": 0.5}))
    return path


@cache
def tiny(*overrides: str) -> DictConfig:
    return composed(*TINY, *overrides)


def jobs(*seeds: int) -> dict[str, DictConfig]:
    return {f"seed={seed}": tiny(f"seed={seed}") for seed in seeds}


def close(it: Sweep) -> None:
    """As the end of its process would."""
    if it.lock is not None:
        os.close(it.lock)


# Done


def test_a_run_is_done_whose_configuration_is_the_same(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", tiny())
    assert is_done(run, tiny())
    assert is_done(run, tiny("data.num_workers=1", "optim.weight_decay=0"))
    assert not is_done(run, tiny("seed=1"))
    assert not is_done(tmp_path / "nowhere", tiny())


@pytest.mark.parametrize("content", ["", "{", '{"status": "failed"}', '{"status": "running"}'])
def test_a_run_is_not_done_that_does_not_say_so(tmp_path: Path, content: str) -> None:
    run = finished(tmp_path / "run", tiny())
    (run / "metrics.json").write_text(content)
    assert not is_done(run, tiny())


def test_a_run_on_other_reviews_is_not_done(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "d", train=some_reviews(60), test=some_reviews(8, 60))
    real = [text for text in TINY if text != "data=synthetic"]
    cfg = composed(*real, f"data.path={data}", "trainer.max_epochs=1")
    metrics = train(cfg, tmp_path / "run")
    finished(tmp_path / "copy", cfg)
    (tmp_path / "copy" / "metrics.json").write_text(json.dumps(metrics))
    assert is_done(tmp_path / "copy", cfg)
    write_parquet(data, train=some_reviews(60), test=some_reviews(8, 61))
    sources.path_fingerprint.cache_clear()
    assert not is_done(tmp_path / "copy", cfg)


def test_the_path_of_the_reviews_does_not_change_the_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(tmp_path / name, train=some_reviews(60), test=some_reviews(8, 60))
    one, other = (composed(f"data.path={tmp_path / name}") for name in ("a", "b"))
    assert config_hash(one) == config_hash(other)


# Directories


def test_an_unfinished_sweep_is_continued(tmp_path: Path) -> None:
    first = Sweep.open(tmp_path / "now", False, jobs(0, 1))
    close(first)
    again = Sweep.open(tmp_path / "later", False, jobs(0, 1))
    assert again.path == first.path
    other = Sweep.open(tmp_path / "later", False, jobs(0, 1, 2))
    assert other.path != first.path


def test_sweeps_at_the_same_time_have_directories_of_their_own(tmp_path: Path) -> None:
    sweeps = [Sweep.open(tmp_path / "now", False, jobs(0)) for _ in range(4)]
    assert len({it.path for it in sweeps}) == 4


def test_a_named_sweep_takes_one_process_at_a_time(tmp_path: Path) -> None:
    first = Sweep.open(tmp_path / "name", True, jobs(0))
    with pytest.raises(RunLockedError, match="another process is working in it"):
        Sweep.open(tmp_path / "name", True, jobs(0))
    close(first)
    assert Sweep.open(tmp_path / "name", True, jobs(0)).path == tmp_path / "name"


def test_a_named_sweep_can_be_extended(tmp_path: Path) -> None:
    close(Sweep.open(tmp_path / "name", True, jobs(0)))
    finished(tmp_path / "name" / "seed=0", jobs(0)["seed=0"])
    more = Sweep.open(tmp_path / "name", True, jobs(0, 1))
    assert more.done() == 1
    assert set(sweep.read_plan(more.path)) == {"seed=0", "seed=1"}


def test_unfinished_runs_are_moved_to_earlier(tmp_path: Path) -> None:
    for number in (1, 2):
        unfinished = finished(tmp_path / "name" / "seed=0", jobs(0)["seed=0"])
        (unfinished / "metrics.json").write_text('{"status": "failed"}')
        (unfinished / "precious").write_text(str(number))
        close(Sweep.open(tmp_path / "name", True, jobs(0)))
        assert not unfinished.exists()
        kept = tmp_path / "name" / ".earlier" / f"seed=0-{number}"
        assert (kept / "precious").read_text("utf-8") == str(number)


def test_finished_runs_are_not_moved(tmp_path: Path) -> None:
    run = finished(tmp_path / "name" / "seed=0", jobs(0)["seed=0"])
    Sweep.open(tmp_path / "name", True, jobs(0))
    assert sorted(path.name for path in run.iterdir()) == [".hydra", "metrics.json"]


def test_a_finished_run_of_another_configuration_is_never_moved(tmp_path: Path) -> None:
    run = finished(tmp_path / "name" / "seed=0", tiny("optim.lr=0.5"))
    with pytest.raises(RunExistsError, match="name a new directory with hydra.sweep.dir"):
        Sweep.open(tmp_path / "name", True, jobs(0))
    assert Run(run).metrics["status"] == "done"
    assert not (tmp_path / "name" / "sweep.json").exists()


def test_other_directories_are_never_moved(tmp_path: Path) -> None:
    mine = tmp_path / "name" / "seed=0"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(RunExistsError, match="exists and is not a run"):
        Sweep.open(tmp_path / "name", True, jobs(0))
    assert (mine / "notes.txt").read_text("utf-8") == "mine"


def test_a_run_that_is_done_is_never_marked_failed(tmp_path: Path) -> None:
    run = Run(finished(tmp_path / "run", tiny()))
    run.mark_failed("too late")
    assert run.metrics["status"] == "done"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", "[1]"),
        ("metrics.json", '{"status": "done"}'),
        (".hydra/config.yaml", "[a]"),
        (".hydra/config.yaml", "seed: ${nowhere}"),
    ],
)
def test_a_corrupt_run_is_not_done(tmp_path: Path, file: str, content: str) -> None:
    cfg = composed("data.max_length=60")  # of real reviews: where there are none, nothing is done
    run = finished(tmp_path / "run", cfg)
    (run / file).write_text(content)
    if content != '{"status": "done"}':
        assert not is_done(run, cfg)
    assert not is_done(run, tiny())


def test_a_run_that_is_still_locked_is_not_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "WAIT_SECONDS", 0.5)
    alive = Run.create(tmp_path / "name" / "seed=0", {"status": "running"})
    with pytest.raises(RunLockedError, match="seed=0"):
        Sweep.open(tmp_path / "name", True, jobs(0))
    alive.release()
    close(Sweep.open(tmp_path / "other", True, jobs(0)))
    assert not is_locked(tmp_path / "name" / "seed=0")


# What it says


def test_the_summary_counts_and_gives_reasons(tmp_path: Path) -> None:
    it = Sweep.open(tmp_path / "name", True, jobs(0, 1, 2, 3))
    finished(it.path / "seed=0", jobs(0)["seed=0"])
    failed = finished(it.path / "seed=1", jobs(1)["seed=1"])
    (failed / "metrics.json").write_text('{"status": "failed", "error": "ValueError: two\\nlines"}')
    Run.create(it.path / "seed=2", {"status": "running"}).release()
    lines = list(it.summary())
    assert lines[0] == f"1 of 4 runs done in {it.path}"
    assert lines[1].split(maxsplit=1) == ["seed=1", "ValueError: two lines"]
    assert lines[2].split(maxsplit=1) == ["seed=2", "killed, or still running"]
    assert lines[3] == "  1 not started"
    assert lines[-1] == "rerun the same command to finish"


@pytest.mark.parametrize("content", ["", "[]", '{"runs": {"a": 3}}', '{"runs": []}'])
def test_a_corrupt_plan_is_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    assert sweep.read_plan(tmp_path) == {}


# Shared file systems


def test_where_directories_have_no_locks_a_file_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, which locks what is open for writing; this machine may have none."""
    fcntl = pytest.importorskip("fcntl")
    real = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if has_none or os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, how)

    has_none = False
    monkeypatch.setattr(fcntl, "flock", flock)
    lock = lock_directory(tmp_path)
    assert lock is not None and (tmp_path / ".lock").exists()
    assert is_locked(tmp_path)
    os.close(lock)
    assert not is_locked(tmp_path)
    has_none = True
    assert lock_directory(tmp_path) is None
