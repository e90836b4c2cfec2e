"""A sweep directory: the runs of a grid, some of which an earlier attempt may have finished.

sweep.json        the runs of the grid by name: the hash of their configuration, and their seed;
                  of a search, what is searched (search/study.py)
<overrides>/      a run directory for each
.earlier/         runs that were not finished and have been started again from the beginning
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..config.identity import config_hash
from ..config.text import shorten
from . import reader, storage
from .run import Run, RunExistsError, RunLockedError, is_locked, lock_directory


WAIT_SECONDS = 15  # seconds that a run whose parent was killed may take to end


class Sweep:
    """One grid's directory, locked by this process until it ends."""

    def __init__(self, path: Path, jobs: Mapping[str, DictConfig], lock: int | None) -> None:
        self.path = path
        self.jobs = jobs
        self.lock = lock

    @classmethod
    def open(
        cls,
        folder: Path,
        named: bool,
        jobs: Mapping[str, DictConfig],
        active: Callable[[Path], Collection[str]] = lambda folder: (),
    ) -> Sweep:
        """Start or continue the sweep of these jobs.

        It continues a sweep that has exactly these runs. Unfinished runs that cannot be resumed
        are moved to .earlier/, but those that are `active` on another machine. Raises
        RunLockedError if another process is working in the directory, and RunExistsError if a
        finished run has the name of another one.
        """
        wanted = plan(jobs)
        path, lock = open_folder(folder, named, lambda path: read_plan(path) == wanted)
        if read_search(path):
            raise RunExistsError(f"{path}: contains a search; name a new hydra.sweep.dir")
        sweep = cls(path, jobs, lock)
        unfinished = [name for name, cfg in jobs.items() if is_unfinished(path / name, cfg)]
        write_json(path, {"runs": read_plan(path) | wanted})
        for name in set(unfinished) - set(active(path)):
            make_room(path / name, jobs[name])
        return sweep

    def done(self) -> int:
        """How many runs are done."""
        return sum(is_done(self.path / name, cfg) for name, cfg in self.jobs.items())

    def failures(self) -> dict[str, str]:
        """Runs that were started and are not done, by name, and why."""
        return {
            name: failure_reason(Run(self.path / name))
            for name, cfg in self.jobs.items()
            if (self.path / name).exists() and not is_done(self.path / name, cfg)
        }

    def summary(self) -> Iterator[str]:
        """Lines for the end: how many runs are done, and a table of those that failed."""
        failures, done = self.failures(), self.done()
        yield f"{done} of {len(self.jobs)} runs done in {self.path}"
        width = max(map(len, failures), default=0)
        for name, why in failures.items():
            yield f"  {name:{width}}  {why}"
        left = len(self.jobs) - done - len(failures)
        if left:
            yield f"  {left} not started"
        if failures:
            yield "see train.log in a run's directory, or console.log if there is one"
        if done < len(self.jobs):
            yield "rerun the same command to finish"


def open_folder(
    folder: Path, named: bool, is_same: Callable[[Path], bool]
) -> tuple[Path, int | None]:
    """The directory of a sweep, and the lock on it, which lasts until this process ends.

    A `named` sweep is in `folder`. Otherwise it is in the newest directory beside `folder` that
    `is_same` accepts and that no process has locked, or in a new one. Raises RunLockedError.
    """
    if named:
        folder.mkdir(parents=True, exist_ok=True)
        return folder, lock_directory(folder)
    for file in sorted(folder.parent.glob("*/sweep.json"), reverse=True):
        if is_same(file.parent):
            try:
                return file.parent, lock_directory(file.parent)
            except RunLockedError:
                continue
    while True:
        path = folder.parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")
        try:
            path.mkdir(parents=True)
            return path, lock_directory(path)
        except (FileExistsError, RunLockedError):  # another started in the same microsecond
            continue


def is_unfinished(path: Path, cfg: DictConfig) -> bool:
    """True if the run was started and not finished. Raises RunExistsError for another run."""
    if not path.exists() or is_done(path, cfg):
        return False
    if not any((path / part).exists() for part in ("metrics.json", ".hydra", "console.log")):
        if path.is_dir() and not any(path.iterdir()):
            return False
        raise RunExistsError(f"{path}: exists and is not a run; name a new hydra.sweep.dir")
    if Run(path).status == "done":
        raise RunExistsError(
            f"{path}: contains a run of another configuration or other reviews; name a new "
            "directory with hydra.sweep.dir"
        )
    return True


def make_room(path: Path, cfg: DictConfig) -> None:
    """Move a run that is not finished and cannot be resumed to .earlier/, beside it.

    First wait until its process, whose parent was killed, has exited. Raises RunLockedError.
    """
    give_up = time.monotonic() + WAIT_SECONDS
    while is_locked(path):
        if time.monotonic() > give_up:
            raise RunLockedError(f"{path}: another process is working in it")
        time.sleep(0.2)
    if is_resumable(path, cfg):
        return
    earlier = path.parent / ".earlier"
    earlier.mkdir(exist_ok=True)
    number = 1
    while (earlier / f"{path.name}-{number}").exists():
        number += 1
    path.rename(earlier / f"{path.name}-{number}")


def write_json(folder: Path, content: Mapping[str, Any]) -> None:
    """Write sweep.json."""
    text = json.dumps(content, indent=1) + "\n"
    storage.atomic_write(folder / "sweep.json", text.encode())


def read_search(folder: Path) -> dict[str, Any]:
    """What a search's directory says about it; empty if it is none."""
    try:
        return dict(reader.read_json(folder / "sweep.json", 16 * reader.MIB)["search"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def plan(jobs: Mapping[str, DictConfig]) -> dict[str, dict[str, Any]]:
    """The content of sweep.json: the runs of a grid, by name."""
    return {
        name: {"configuration": config_hash(cfg, seed=False), "seed": cfg.seed}
        for name, cfg in jobs.items()
    }


def read_plan(folder: Path) -> dict[str, dict[str, Any]]:
    """The plan of a sweep's directory; empty if it is none."""
    try:
        runs = reader.read_json(folder / "sweep.json", 16 * reader.MIB)["runs"]
        return {
            name: {"configuration": str(job["configuration"]), "seed": int(job["seed"])}
            for name, job in runs.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def is_done(path: Path, cfg: DictConfig) -> bool:
    """True if `path` has a finished run of this configuration on the current reviews."""
    run = Run(path)
    try:
        metrics, own = run.metrics, run.config
        if metrics.get("status") != "done" or config_hash(own) != config_hash(cfg):
            return False
    except (OSError, ValueError, TypeError, OmegaConfBaseException):
        return False
    if cfg.data.name != "imdb":
        return True
    from ..data import sources  # late: not needed for the synthetic corpus

    try:
        return fingerprint(metrics) == sources.path_fingerprint(cfg.data.path)
    except sources.DataNotFoundError:  # only the nodes of a cluster have them
        return True


def is_resumable(path: Path, cfg: DictConfig) -> bool:
    """True if `path` has a run of this configuration that was killed, and a checkpoint of it.

    A run that failed starts again from scratch, since the cause may be fixed by now.
    """
    run = Run(path)
    try:
        same = config_hash(run.config) == config_hash(cfg)
    except (OSError, ValueError, TypeError, OmegaConfBaseException):
        return False
    exists = run.last.exists() or run.best.exists()
    return same and exists and (run.status in ("running", "interrupted") or run.was_killed)


def fingerprint(metrics: Mapping[str, Any]) -> str | None:
    """The hash of a run's reviews; None for the synthetic corpus."""
    data = metrics.get("data")
    return data.get("fingerprint") if isinstance(data, dict) else None


def failure_reason(run: Run) -> str:
    """Why a run is not done, in one line."""
    try:
        metrics = run.metrics
    except OSError:
        return "exited before it started training"
    except ValueError as error:
        return f"metrics.json is corrupt: {error}"
    if metrics.get("status") == "running":
        return "killed, or still running"
    return shorten(metrics.get("error") or metrics.get("status") or "no status")
