"""Which run to go on with, and whether it may: the command line's `resume=`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from . import config
from .run import Busy, Run, hold


MAY_CHANGE = "trainer.max_epochs"


class CannotResume(Exception):
    """Why, in a line for each reason."""


def overrides(path: Path, given: Sequence[str]) -> list[str]:
    """The command line that the run in `path` was begun with, and what is `given` now.

    Raises CannotResume where there is no run.
    """
    run = Run(path)
    if not path.is_dir():
        raise CannotResume(f"resume={path}: no such directory")
    try:
        begun = yaml.safe_load((path / ".hydra" / "overrides.yaml").read_text("utf-8"))
        epochs = run.config.trainer.max_epochs
        if not all(isinstance(text, str) for text in begun):
            raise ValueError("overrides.yaml is damaged")
    except (OSError, ValueError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        why = config.one_line(error)
        raise CannotResume(f"resume={path}: its .hydra is not that of a run: {why}") from None
    here = [f"resume={config.quoted(str(path))}", "hydra.mode=RUN"]  # one run, also of a grid
    known = {key(text) for text in [*given, *here, MAY_CHANGE]}
    kept = [text for text in begun if key(text) not in known]
    return [*kept, f"{MAY_CHANGE}={epochs}", *given, *here]


def key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def check(path: Path, now: DictConfig) -> None:
    """Raises CannotResume where the run is another one than `now` says, or somebody is at it."""
    before, after = config.comparable(Run(path).config), config.comparable(now)
    differing = [
        f"{key}: {before.get(key, 'not there')} in the run, {after.get(key, 'not there')} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key != MAY_CHANGE
    ]
    if differing:
        raise CannotResume(
            f"resume={path}: only {MAY_CHANGE} may change, and these do too", *differing
        )
    done = epochs(path)
    if done > after[MAY_CHANGE]:
        raise CannotResume(f"{MAY_CHANGE}={after[MAY_CHANGE]}: the run has {done} epochs already")
    try:
        hold(path, release=True)
    except Busy as error:
        raise CannotResume(f"resume={path}: {error}") from None


def is_done(path: Path, now: DictConfig) -> bool:
    """Whether nothing is left to do."""
    return status(path) == "done" and epochs(path) >= Run(path).config.trainer.max_epochs == (
        now.trainer.max_epochs
    )


def newest(folder: Path, wanted: DictConfig) -> Path | None:
    """The unfinished run of this configuration in `folder` that was at work last."""
    found = []
    for file in folder.glob("*/metrics.json"):
        run = Run(file.parent)
        try:
            same = config.digest(run.config) == config.digest(wanted)
            if same and status(run.path) != "done":
                hold(run.path, release=True)
                found.append((file.stat().st_mtime, run.path))
        except (OSError, ValueError, OmegaConfBaseException, Busy):
            continue  # no run, or not one that can go on now
    return max(found)[1] if found else None


def status(path: Path) -> str | None:
    try:
        return Run(path).metrics.get("status")
    except (OSError, ValueError):
        return None


def epochs(path: Path) -> int:
    """How many the run has behind it, as far as metrics.json can be read."""
    try:
        return len(Run(path).metrics.get("epochs", []))
    except (OSError, ValueError, TypeError):
        return 0
