"""The plan of a command line: which run or grid it means, and the arguments for Hydra.

Making a plan reads the configuration, the reviews' whereabouts and earlier runs; it creates and
changes nothing.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from . import preflight
from .config.overrides import SYNONYMS, CommandLine, check_command_line
from .config.paths import absolute_path
from .config.schema import GROUPS, KEYS, devices_of
from .config.text import did_you_mean, printable, quote
from .config.trust import foreign_targets
from .data.sources import DataError
from .runs import resume


SYNTHETIC = "data.name=synthetic"


class CommandLineError(ValueError):
    """The errors of a command line, one line each."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*(printable(" ".join(line.splitlines())) for line in lines))


class NothingToDoError(Exception):
    """The run that a command line asks for is already done."""


class Plan(NamedTuple):
    """The parts of the program to run, and with which arguments."""

    arguments: list[str]  # of Hydra's command line
    directory: Path | None = None  # of the run; None for a grid, or if nothing is run
    run: DictConfig | None = None  # the configuration, unless it is a grid
    grid: CommandLine | None = None  # the jobs of a grid
    wants_help: bool = False
    keeps_nothing: bool = False  # a fast_dev_run: in a directory that is removed
    warnings: tuple[str, ...] = ()  # for standard error
    notes: tuple[str, ...] = ()  # for standard output

    @property
    def devices(self) -> int:
        """The processes of the run on each machine."""
        return 1 if self.run is None else devices_of(self.run)

    @property
    def nodes(self) -> int:
        """The machines of the run."""
        return 1 if self.run is None else self.run.trainer.get("num_nodes", 1)


def make_plan(argv: Sequence[str], pretraining: bool = False) -> Plan:
    """`argv` is without the program's name; `pretraining` refuses the runs of classifiers.

    Raises CommandLineError or NothingToDoError.
    """
    arguments = [resume.quote_path_override(text) for text in argv]
    options = _parse(arguments)
    if options.help:
        return Plan(arguments, wants_help=True)
    if options.hydra_help or options.shell_completion:
        return Plan(arguments)
    if options.config_name or options.config_path or options.experimental_rerun:
        raise CommandLineError(
            "the configuration is conf/config.yaml; put yours into --config-dir as experiments"
        )
    if options.cfg and options.multirun:
        raise CommandLineError("--cfg shows one configuration: name one job, without -m")
    line = check_command_line(options.overrides, bool(options.multirun), options.config_dir)
    if line.errors:
        raise CommandLineError(*line.errors)
    _refuse(line, options, pretraining)
    flags = [text for text in arguments if text not in options.overrides]
    if options.cfg or options.info:
        return Plan([*flags, *line.overrides])
    wanted = line.jobs[0].resume
    if wanted not in (None, "auto"):
        path = Path(absolute_path(wanted))
        return _plan_resume(path, flags, options.overrides, options.config_dir)

    overrides, warnings = line.overrides, check_jobs(line)
    if warnings:  # the fallback is part of the configuration, so that every file of the run says so
        given = [*options.overrides, SYNTHETIC]
        line = check_command_line(given, bool(options.multirun), options.config_dir)
        overrides = [*overrides, SYNTHETIC]
    notes: tuple[str, ...] = ()
    if wanted == "auto":
        found = _find_run(line, options.overrides)
        if found is not None:
            return _plan_resume(found, flags, overrides, options.config_dir)
        notes = ("no unfinished run of this configuration: starting a new one",)
        overrides = [*overrides, "resume=null"]
    overrides = [*overrides, *line.naming]
    if any(cfg.trainer.get("fast_dev_run") for cfg in line.jobs):
        arguments = [*flags, *overrides]
        return Plan(arguments, run=line.jobs[0], keeps_nothing=True, warnings=warnings)
    if line.multirun:
        return Plan([*flags, *overrides], grid=line, warnings=warnings)
    run_dir = f"hydra.run.dir={quote(line.directory)}"  # not a microsecond later
    arguments = [*flags, *overrides, run_dir]
    return Plan(arguments, Path(line.directory), line.jobs[0], warnings=warnings, notes=notes)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's options and the overrides. Raises CommandLineError."""
    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise CommandLineError(message)

    parser.error = fail  # type: ignore[method-assign]
    options, unknown = parser.parse_known_intermixed_args(arguments)  # -m between overrides
    if unknown:
        lines = []
        for text in (text for text in unknown if text.startswith("-") or len(unknown) == 1):
            name = text.lstrip("-").partition("=")[0]
            meant = f"; did you mean {SYNONYMS[name]}?" if name in SYNONYMS else ""
            meant = meant or did_you_mean(name, [*KEYS, *GROUPS])
            lines.append(f"{text}: no such option; values are set as KEY=VALUE{meant}")
        raise CommandLineError(*lines)
    return options


def _refuse(line: CommandLine, options: argparse.Namespace, pretraining: bool) -> None:
    """Raises CommandLineError for combinations that make no sense."""
    resumed = [cfg.resume for cfg in line.jobs if cfg.resume is not None]
    if resumed and line.multirun:
        raise CommandLineError(
            "resume: a grid resumes by itself: rerun its command, without resume"
        )
    keys = {resume.override_key(text) for text in options.overrides}
    if any(cfg.trainer.get("fast_dev_run") for cfg in line.jobs):
        if line.multirun or resumed:
            raise CommandLineError(
                "trainer.fast_dev_run tries one configuration and keeps nothing: omit "
                f"{'-m' if line.multirun else 'resume'}"
            )
        if "hydra.run.dir" in keys or any("pretrain" in cfg for cfg in line.jobs):
            which = "hydra.run.dir" if "hydra.run.dir" in keys else "pretrain"
            raise CommandLineError(f"trainer.fast_dev_run keeps nothing: omit {which}")
    if resumed and resumed != ["auto"] and "hydra.run.dir" in keys:
        raise CommandLineError("resume: a run stays in its directory; omit hydra.run.dir")
    if pretraining and not resumed and any("pretrain" not in cfg for cfg in line.jobs):
        raise CommandLineError("no pretraining is configured: choose pretrain=vectors")
    if options.cfg and line.swept:
        raise CommandLineError(f"{line.swept[0]}: --cfg shows one configuration: give one value")


def check_jobs(line: CommandLine, may_fall_back: bool = True) -> tuple[str, ...]:
    """Warnings if there are no reviews and the synthetic corpus replaces them; else none.

    Raises CommandLineError if this machine lacks what the jobs need. What only another machine
    needs, a node of a cluster, is checked there.
    """
    jobs = line.jobs
    lines = [] if line.remote else preflight.check_devices(jobs)
    if line.remote and shutil.which("sbatch") is None:
        lines.append("hydra/launcher=slurm: there is no sbatch on this machine")
    try:
        no_reviews = preflight.check_reviews(jobs)
    except DataError as error:
        if not line.remote:
            raise CommandLineError(*lines, str(error)) from None
        no_reviews = str(error)
    if no_reviews and line.remote and not lines:
        return ()
    if no_reviews and (not may_fall_back or preflight.needs_real_reviews(jobs)):
        lines.append(no_reviews)
    if not no_reviews:
        lines += [*preflight.check_pretrained(jobs), *preflight.check_teachers(jobs)]
    lines += [*preflight.check_cells(jobs), *preflight.check_components(jobs)]
    if line.space:
        lines += preflight.check_search(jobs)
    if not lines and not line.remote:
        lines = preflight.check_precision(jobs)
    if lines:
        raise CommandLineError(*lines)
    return (no_reviews, "training on the synthetic corpus instead") if no_reviews else ()


def _find_run(line: CommandLine, given: Sequence[str]) -> Path | None:
    """The run that `resume=auto` means: in the directory that is named, or the most recent."""
    directory = Path(line.directory)
    if any(resume.override_key(text) == "hydra.run.dir" for text in given):
        return directory if (directory / "metrics.json").exists() else None
    return next(iter(resume.find_resumable(directory.parent, line.jobs[0])), None)


def _names(override: str, key: str, name: str) -> bool:
    """True if an override sets `key`, or what it is a part of, to the class `name`."""
    own = resume.override_key(override)
    return name in override and (key == own or key.startswith(f"{own}."))


def _check_consent(
    path: Path, cfg: DictConfig, given: Sequence[str], kept: Sequence[str], config_dir: str | None
) -> None:
    """Raises CommandLineError if the run in `path` has third-party code that is not named here."""
    found = foreign_targets(OmegaConf.to_container(cfg, resolve=True))
    unnamed = [pair for pair in found if not any(_names(text, *pair) for text in given)]
    if config_dir is not None:  # what its files name is named by the user
        unnamed = [pair for pair in unnamed if any(pair[1] in text for text in kept)]
    if unnamed:
        where, name = unnamed[0]
        raise CommandLineError(
            f"resume={path}: {name} is not part of imdb_lightning; add {where}={name} to run its "
            "code"
        )


def _plan_resume(
    path: Path, flags: Sequence[str], given: Sequence[str], config_dir: str | None
) -> Plan:
    """Resume the run in `path` with the overrides that are `given`."""
    given = [text for text in given if resume.override_key(text) not in ("resume", "hydra.run.dir")]
    try:
        overrides = resume.resume_overrides(path, given)
        line = check_command_line(overrides, False, config_dir)
        if line.errors:
            raise CommandLineError(*line.errors, *resume.hint_config_dir(path, config_dir))
        kept = [text for text in overrides if text not in given]
        _check_consent(path, line.jobs[0], given, kept, config_dir)
        resume.check_resumable(path, line.jobs[0])
    except resume.ResumeError as error:
        raise CommandLineError(*error.args) from None
    if resume.is_complete(path, line.jobs[0]):
        more = "" if "pretrain" in line.jobs[0] else "; set a larger trainer.max_epochs"
        raise NothingToDoError(f"{path} is done{more}")
    check_jobs(line, may_fall_back=False)
    here = [f"hydra.run.dir={quote(str(path))}", "hydra.output_subdir=null"]
    return Plan([*flags, *line.overrides, *here], path, line.jobs[0])
