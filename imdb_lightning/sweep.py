"""A sweep directory: the runs of a grid, of which an earlier try may have finished some.

sweep.json        the runs that the grid has, by name: their configuration's hash, and their seed
<overrides>/      a run directory for each
.earlier/         runs that did not finish and were started again from their beginning
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from . import config, durable
from .run import Busy, Run, RunExists, hold


PATIENCE = 15  # seconds that a run whose parent was killed may take to end


class Sweep:
    """One grid's directory, held by this process until it ends."""

    def __init__(self, path: Path, jobs: Mapping[str, DictConfig], lock: int | None) -> None:
        self.path = path
        self.jobs = jobs
        self.lock = lock

    @classmethod
    def claim(cls, folder: Path, named: bool, jobs: Mapping[str, DictConfig]) -> Sweep:
        """Begin a sweep of these runs, or go on with it.

        A `named` sweep has `folder`. Otherwise it goes on with the newest sweep beside `folder`
        that has just these runs and that no process holds, or begins a new one. Runs that did not
        finish go on later, where they can, and are put aside where not. Raises Busy where another
        process is at work, and RunExists where a finished run of the same name is another one.
        """
        if named:
            folder.mkdir(parents=True, exist_ok=True)
            sweep = cls(folder, jobs, hold(folder))
        else:
            sweep = cls._earlier(folder.parent, jobs) or cls._new(folder.parent, jobs)
        unfinished = [name for name, cfg in jobs.items() if sweep._is_there(name, cfg)]
        known = plan(sweep.path) | planned(jobs)
        durable.write(
            sweep.path / "sweep.json", (json.dumps({"runs": known}, indent=1) + "\n").encode()
        )
        for name in unfinished:
            sweep._wait(name)
            if not goes_on(sweep.path / name, jobs[name]):
                sweep._put_aside(name)
        return sweep

    def _is_there(self, name: str, cfg: DictConfig) -> bool:
        """Whether the run was started and did not finish."""
        path = self.path / name
        if not path.exists() or is_done(path, cfg):
            return False
        if not any((path / part).exists() for part in ("metrics.json", ".hydra", "console.log")):
            if path.is_dir() and not any(path.iterdir()):
                return False
            raise RunExists(f"{path}: it is there and no run; name a new hydra.sweep.dir")
        if Run(path).status == "done":
            raise RunExists(
                f"{path}: there is a run of another configuration or other reviews in it; name a "
                "new directory with hydra.sweep.dir"
            )
        return True

    @classmethod
    def _earlier(cls, folder: Path, jobs: Mapping[str, DictConfig]) -> Sweep | None:
        wanted = planned(jobs)
        for file in sorted(folder.glob("*/sweep.json"), reverse=True):
            if plan(file.parent) == wanted:
                try:
                    return cls(file.parent, jobs, hold(file.parent))
                except Busy:
                    continue
        return None

    @classmethod
    def _new(cls, folder: Path, jobs: Mapping[str, DictConfig]) -> Sweep:
        while True:
            path = folder / datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")
            try:
                path.mkdir(parents=True)
                return cls(path, jobs, hold(path))
            except (FileExistsError, Busy):  # another one that started in the same microsecond
                continue

    def _put_aside(self, name: str) -> None:
        """Keep what an unfinished run left, out of the way of its next try."""
        earlier = self.path / ".earlier"
        earlier.mkdir(exist_ok=True)
        number = 1
        while (earlier / f"{name}-{number}").exists():
            number += 1
        (self.path / name).rename(earlier / f"{name}-{number}")

    def _wait(self, name: str) -> None:
        """Until the process of a run whose parent was killed has ended. Raises Busy."""
        patience = time.monotonic() + PATIENCE
        while True:
            try:
                hold(self.path / name, release=True)
                return
            except Busy:
                if time.monotonic() > patience:
                    raise
                time.sleep(0.2)

    def done(self) -> int:
        return sum(is_done(self.path / name, cfg) for name, cfg in self.jobs.items())

    def failures(self) -> dict[str, str]:
        """Runs that were started and are not done, by name, and why."""
        return {
            name: reason(Run(self.path / name))
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
            yield "train.log in a run's directory says more, console.log where there is one"
        if done < len(self.jobs):
            yield "the same command runs what is not done"


def planned(jobs: Mapping[str, DictConfig]) -> dict[str, dict[str, Any]]:
    return {
        name: {"configuration": config.digest(cfg, seed=False), "seed": cfg.seed}
        for name, cfg in jobs.items()
    }


def plan(folder: Path) -> dict[str, dict[str, Any]]:
    """The runs that a sweep was to have, by name; empty where `folder` is no sweep's."""
    try:
        runs = json.loads((folder / "sweep.json").read_text("utf-8"))["runs"]
        return {
            name: {"configuration": str(job["configuration"]), "seed": int(job["seed"])}
            for name, job in runs.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def is_done(path: Path, cfg: DictConfig) -> bool:
    """Whether `path` has a finished run of this configuration on the reviews that are there now."""
    run = Run(path)
    try:
        metrics, own = run.metrics, run.config
        if metrics.get("status") != "done" or config.digest(own) != config.digest(cfg):
            return False
    except (OSError, ValueError, TypeError, OmegaConfBaseException):
        return False
    return cfg.data.name != "imdb" or fingerprint(metrics) == reviews(cfg.data.path)


def goes_on(path: Path, cfg: DictConfig) -> bool:
    """Whether `path` has a run of this configuration that was ended, and a checkpoint of it.

    One that failed does not: it begins anew, since what made it fail may be mended.
    """
    run = Run(path)
    try:
        same = config.digest(run.config) == config.digest(cfg)
    except (OSError, ValueError, TypeError, OmegaConfBaseException):
        return False
    there = run.last.exists() or run.best.exists()
    return same and there and (run.status in ("running", "interrupted") or run.was_ended)


def fingerprint(metrics: Mapping[str, Any]) -> str | None:
    """Of the reviews that a run had; None of the synthetic corpus."""
    data = metrics.get("data")
    return data.get("fingerprint") if isinstance(data, dict) else None


@cache
def reviews(path: str | None) -> str:
    """Fingerprint of the reviews that `data.path` leads to."""
    from .data import sources

    return sources.fingerprint(sources.find(path))


def reason(run: Run) -> str:
    """Why a run is not done, in one line."""
    try:
        metrics = run.metrics
    except OSError:
        return "it ended before it began"
    except ValueError as error:
        return f"metrics.json is damaged: {error}"
    if metrics.get("status") == "running":
        return "killed, or still running"
    return config.one_line_of(metrics.get("error") or metrics.get("status") or "no status")
