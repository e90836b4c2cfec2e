"""Resuming: the run that `resume=` means, the checks of it, and its checkpoint."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..config.identity import (
    PROCESS_KEYS,
    RESUMABLE_KEY,
    SCHEDULES_OF_THE_RUN,
    UPSTREAM_KEYS,
    canonical_config,
    config_hash,
    differences,
)
from ..config.paths import conf_dir
from ..config.text import one_line, quote
from . import reader
from .run import Run, is_locked


HYDRA_PATHS = ("hydra.run.dir", "hydra.sweep.dir")
# What reading a run's .hydra may raise.
READ_ERRORS = (
    *(OSError, ValueError, TypeError, AttributeError),
    *(yaml.YAMLError, OmegaConfBaseException),
)

PATH_KEYS = ("resume", *UPSTREAM_KEYS, "data.path", "data.cache_dir", *HYDRA_PATHS)
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+-]+")

log = logging.getLogger(__name__)


class ResumeError(Exception):
    """Why a run cannot be resumed: one line for each reason."""


# Overrides


def resume_overrides(path: Path, given: Sequence[str], any_logger: bool = False) -> list[str]:
    """The overrides of the run in `path`, followed by those that are `given` now.

    Raises ResumeError if there is no run, or it logs elsewhere and `given` does not repeat that;
    `any_logger` omits the second.
    """
    if not path.is_dir():
        what = "a file; give the run's directory" if path.exists() else "no such directory"
        raise ResumeError(f"resume={path}: {what}")
    run = Run(path)
    try:
        original = yaml.safe_load(reader.read_yaml(path / ".hydra" / "overrides.yaml"))
        epochs = run.config.trainer.max_epochs
        if not all(isinstance(text, str) for text in original):
            raise ValueError("overrides.yaml is corrupt")
        # It may come from anybody: only keys of our own configuration reach Hydra.
        foreign = [text for text in original if not is_own_key(text)]
        if foreign:
            raise ValueError(f"overrides.yaml contains {foreign[0]!r}, which no run writes")
        canonical_config(run.config)
    except READ_ERRORS as error:
        reason = one_line(error)
        raise ResumeError(f"resume={path}: its .hydra is not that of a run: {reason}") from None
    here = [f"resume={quote(str(path))}", "hydra.mode=RUN"]  # one run, even of a grid
    # Where encoded reviews are cached is this command's choice: the run's directory writes nowhere.
    replaced = {override_key(text) for text in [*given, *here, RESUMABLE_KEY, "data.cache_dir"]}
    kept = [text for text in original if override_key(text) not in replaced]
    if any(_group(text) == "logger" for text in given):
        kept = [text for text in kept if _group(text) != "logger"]
    elsewhere = [text for text in kept if _group(text) == "logger" and not _logs_here(text)]
    if elsewhere and not any_logger:
        raise ResumeError(
            f"resume={path}: its {elsewhere[0]} reports elsewhere; give a logger again"
        )
    looked_up = next((text for text in kept if "${" in text), None)
    if looked_up is not None:
        raise ResumeError(f"resume={path}: its override {looked_up} is evaluated: give it again")
    return [*kept, f"{RESUMABLE_KEY}={epochs}", *given, *here]


def _group(override: str) -> str:
    return override_key(override).split(".")[0]


def _logs_here(override: str) -> bool:
    """True if it concerns loggers that write into the run's directory alone."""
    names = override_key(override).split(".")[1:2] or re.findall(r"\w+", override.split("=", 1)[1])
    return set(names) <= {"tensorboard", "csv"}


def override_key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def is_own_key(override: str) -> bool:
    """True if it sets a plain key, or a group, of the configuration, Hydra's excluded."""
    parts = re.split(r"[./]", override_key(override))
    return parts[0] in own_keys() and all(re.fullmatch(r"\w+", part) for part in parts)


@cache
def own_keys() -> set[str]:
    """The first part of every key and the name of every group of the configuration, not Hydra's."""
    folder = conf_dir()
    keys = yaml.safe_load((folder / "config.yaml").read_text("utf-8")).keys()
    groups = {group.name for group in folder.iterdir() if group.is_dir()}
    return {*keys, *groups} - {"defaults", "hydra"}


def quote_path_override(text: str) -> str:
    """Quote a path with characters that Hydra's grammar does not have, or uses.

    A value with a comma may name several paths, unless it exists as one.
    """
    name, _, value = text.partition("=")
    if name not in PATH_KEYS or value[:1] in ("'", '"', "$", "[", "") or value in ("auto", "null"):
        return text
    if re.fullmatch(r"\w+\(.*\)", value) or "${" in value:  # a sweep such as glob(...)
        return text
    is_one = name == "resume" or "," not in value or os.path.exists(os.path.expanduser(value))
    return f"{name}={quote(value)}" if is_one and not PLAIN_PATH.fullmatch(value) else text


def hint_config_dir(path: Path, config_dir: str | None) -> list[str]:
    """A line if the run was started with a folder of configurations and now there is none."""
    file = path / ".hydra" / "hydra.yaml"
    if (
        config_dir
        or not file.exists()
        or "provider: command-line" not in reader.read_text(file, reader.MIB)
    ):
        return []
    return ["the run was started with --config-dir: give it again"]


# Checks


def check_resumable(path: Path, now: DictConfig) -> None:
    """Raises ResumeError if the run is not the one that `now` describes, or is being trained."""
    before, after = canonical_config(Run(path).config), canonical_config(now)
    changed = differences(before, after, ignore=(RESUMABLE_KEY, *PROCESS_KEYS))
    if changed:
        raise ResumeError(
            f"resume={path}: only {RESUMABLE_KEY} may change, but these differ:",
            *(f"{key}: {a} in the run, {b} now" for key, (a, b) in changed.items()),
        )
    epochs = after[RESUMABLE_KEY]
    schedule = after.get("schedule.name")
    if schedule in SCHEDULES_OF_THE_RUN and before[RESUMABLE_KEY] != epochs:
        raise ResumeError(
            f"{RESUMABLE_KEY}={epochs}: the run's learning rate schedule (schedule={schedule}) is "
            f"fixed at {before[RESUMABLE_KEY]} epochs"
        )
    done = Run(path).completed_epochs
    if done > epochs:
        raise ResumeError(f"{RESUMABLE_KEY}={epochs}: the run already has {done} epochs")
    if is_locked(path):
        raise ResumeError(f"resume={path}: another process is working in it")


def is_complete(path: Path, now: DictConfig) -> bool:
    """True if the run is done, for as many epochs as `now` has."""
    run = Run(path)
    return run.status == "done" and run.config.trainer.max_epochs == now.trainer.max_epochs


def find_resumable(folder: Path, wanted: DictConfig) -> list[Path]:
    """Resumable runs of this configuration in `folder`, most recent first."""
    found = []
    for file in folder.glob("*/metrics.json"):
        run = Run(file.parent)
        try:
            same = config_hash(run.config) == config_hash(wanted)
            if same and run.status != "done" and not run.diverged and not is_locked(run.path):
                resume_overrides(run.path, [], any_logger=True)
                found.append((file.stat().st_mtime, run.path))
        except (*READ_ERRORS, ResumeError):
            continue  # no run, or one that cannot be resumed
    return [path for _, path in sorted(found, reverse=True)]


# The checkpoint


def load_checkpoint(
    run: Run, needs_best: bool, max_epochs: int
) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to resume from; None if there is none yet.

    Raises CorruptCheckpointError, or ResumeError if nothing is left to resume.
    """
    from . import checkpoint  # late: it imports torch, which takes seconds

    found = checkpoint.latest(run, needs_best)
    if found is None:
        if run.status == "done":
            raise ResumeError(f"{run.path} is done, and has no checkpoint to resume from")
        return None
    progress = checkpoint.TrainingProgress(**found[1]["progress"])
    if progress.epoch + (progress.batch > 0) > max_epochs:
        raise ResumeError(f"{RESUMABLE_KEY}={max_epochs}: the run is in a later epoch")
    return found


def check_data(
    run: Run, tokenizer: str, metadata: Mapping[str, Any], resumed: Mapping[str, Any] | None
) -> None:
    """Raises ResumeError if the reviews are not those of the run.

    `resumed` is the checkpoint, if there is one yet; `metadata` of the reviews as they are now.
    """
    try:
        if reader.read_text(run.tokenizer, 64 * reader.MIB) != tokenizer:
            raise ResumeError(
                f"{run.tokenizer} does not match these reviews: the data has changed or the file "
                "is corrupt; delete it to rebuild it"
            )
    except FileNotFoundError:
        pass  # the run was killed before it was written
    except ValueError:
        raise ResumeError(f"{run.tokenizer} is corrupt; delete it to rebuild it") from None
    if resumed is None:
        return
    changed = differences(
        resumed["run_log"]["metrics"]["data"], metadata, keys=metadata.keys(), ignore=("source",)
    )
    if changed:
        raise ResumeError(
            "; ".join(f"data.{key}: {a} in the run, {b} now" for key, (a, b) in changed.items())
        )


def log_position(resumed: Mapping[str, Any] | None, now: Mapping[str, str]) -> None:
    """Log where the run is resumed, and versions that differ from those `now`."""
    if resumed is None:
        log.info("there is no checkpoint yet: starting from the beginning")
        return
    from .checkpoint import NOT_BITWISE

    others = differences(resumed["run_log"]["metrics"]["versions"], now, keys=now.keys())
    if others:
        lines = ", ".join(f"{name} {a}, now {b}" for name, (a, b) in others.items())
        log.warning("started with %s: %s", lines, NOT_BITWISE)
    if resumed["progress"]["stopped"]:
        log.info("the run has been stopped before its last epoch: it is tested, not trained")
    epoch, batch = resumed["progress"]["epoch"], resumed["progress"]["batch"]
    if batch:
        log.info("resuming in epoch %d, after %d of its batches", epoch + 1, batch)
    else:
        log.info("resuming after epoch %d", epoch)
