"""Which run to go on with, and whether it may: the command line's `resume=`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from . import config
from .run import Busy, Run, hold


DAMAGED = (
    *(OSError, ValueError, TypeError, AttributeError),
    *(yaml.YAMLError, OmegaConfBaseException),
)
MAY_CHANGE = "trainer.max_epochs"


class CannotResume(Exception):
    """Why, in a line for each reason."""


def overrides(path: Path, given: Sequence[str]) -> list[str]:
    """The command line that the run in `path` was begun with, and what is `given` now.

    Raises CannotResume where there is no run.
    """
    run = Run(path)
    if not path.is_dir():
        what = "a file; give the run's directory" if path.exists() else "no such directory"
        raise CannotResume(f"resume={path}: {what}")
    try:
        begun = yaml.safe_load((path / ".hydra" / "overrides.yaml").read_text("utf-8"))
        epochs = run.config.trainer.max_epochs
        if not all(isinstance(text, str) for text in begun):
            raise ValueError("overrides.yaml is damaged")
        # It may come from anybody: nothing in it reaches Hydra but keys of our own configuration.
        foreign = [text for text in begun if not is_ours(text)]
        if foreign:
            raise ValueError(f"overrides.yaml has {foreign[0]!r}, which no run writes")
        config.comparable(run.config)
    except DAMAGED as error:
        why = config.one_line(error)
        raise CannotResume(f"resume={path}: its .hydra is not that of a run: {why}") from None
    here = [f"resume={config.quoted(str(path))}", "hydra.mode=RUN"]  # one run, also of a grid
    known = {key(text) for text in [*given, *here, MAY_CHANGE]}
    kept = [text for text in begun if key(text) not in known]
    return [*kept, f"{MAY_CHANGE}={epochs}", *given, *here]


def key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def is_ours(override: str) -> bool:
    """Whether it sets a plain key, or a group, of the configuration but for Hydra's own."""
    parts = re.split(r"[./]", key(override))
    return parts[0] in our_keys() and all(re.fullmatch(r"\w+", part) for part in parts)


@cache
def our_keys() -> set[str]:
    """The first part of every key and the name of every group of the configuration but Hydra's."""
    folder = config.conf_dir()
    keys = yaml.safe_load((folder / "config.yaml").read_text("utf-8")).keys()
    groups = {group.name for group in folder.iterdir() if group.is_dir()}
    return {*keys, *groups} - {"defaults", "hydra"}


def literal(text: str) -> str:
    """A path as it is, such as a grid's with = and commas in it, in Hydra's grammar.

    What `pretrained` and `teacher` name may be several paths, where no single one is there.
    """
    name, _, value = text.partition("=")
    plain = value[:1] not in ("'", '"', "$", "") and value not in ("auto", "null")
    several = name in ("pretrained", "teacher")
    one = name == "resume" or (several and Path(value).expanduser().exists())
    return f"{name}={config.quoted(value)}" if one and plain else text


def hint(path: Path, config_dir: str | None) -> list[str]:
    """Where the run was begun with a folder of configurations and now has none: a line."""
    file = path / ".hydra" / "hydra.yaml"
    if config_dir or not file.exists() or "provider: command-line" not in file.read_text("utf-8"):
        return []
    return ["the run was begun with --config-dir: give that again"]


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
    if after.get("optim.schedule") == "one_cycle" and before[MAY_CHANGE] != after[MAY_CHANGE]:
        raise CannotResume(
            f"{MAY_CHANGE}={after[MAY_CHANGE]}: the run's learning rate has its whole course over "
            f"{before[MAY_CHANGE]} epochs (optim.schedule=one_cycle)"
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
    run = Run(path)
    return run.status == "done" and run.config.trainer.max_epochs == now.trainer.max_epochs


def unfinished(folder: Path, wanted: DictConfig) -> list[Path]:
    """The runs of this configuration in `folder` that can go on, those at work last first."""
    found = []
    for file in folder.glob("*/metrics.json"):
        run = Run(file.parent)
        try:
            same = config.digest(run.config) == config.digest(wanted)
            if same and run.status != "done" and not run.was_not_finite:
                overrides(run.path, [])
                hold(run.path, release=True)
                found.append((file.stat().st_mtime, run.path))
        except (*DAMAGED, Busy, CannotResume):
            continue  # no run, or not one that can go on now
    return [path for _, path in sorted(found, reverse=True)]


def epochs(path: Path) -> int:
    """How many the run has behind it, as far as metrics.json can be read."""
    try:
        return len(Run(path).metrics.get("epochs", []))
    except (OSError, ValueError, TypeError):
        return 0
