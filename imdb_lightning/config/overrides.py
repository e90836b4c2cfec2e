"""The overrides of a command line: every error in them, and the configurations they compose.

Hydra composes; this module finds the errors that Hydra reports one at a time, without a
suggestion, or not at all. It imports neither torch nor lightning, so that answers are quick.
"""

from __future__ import annotations

import copy
import fnmatch
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from .components import LOGGERS, REFUSED_CALLBACKS, SEVERAL
from .identity import names_of_grid
from .paths import absolute_path, conf_dir
from .rules import STR, Rule, integer, number, one_of, or_null
from .schema import ADDED_KEYS, KEYS, REFUSED_ARGUMENTS, check_values, flatten
from .space import Dimension, dimension, last_of_each
from .text import did_you_mean, one_line


# What users of PyTorch, Keras and Lightning call some keys.
SYNONYMS = {
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "max_epoch"), "trainer.max_epochs"),
    **dict.fromkeys(("lr", "learning_rate", "optimizer.lr"), "optim.lr"),
    **dict.fromkeys(("ckpt_path", "resume_from_checkpoint"), "resume"),
    **dict.fromkeys(("batch_size", "bs"), "data.batch_size"),
    **dict.fromkeys(("hidden", "hidden_dim", "units"), "model.hidden_size"),
    **dict.fromkeys(("embedding_dim", "embed_size"), "model.embedding_size"),
    **dict.fromkeys(("optimizer", "optimiser"), "optim"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_schedule", "optim.schedule"), "schedule"),
    **dict.fromkeys(("patience", "early_stopping"), "callbacks.early_stopping.patience"),
}


NOT_SEARCHED = {
    "seed": "a search would choose the luckiest seed; give one, and train the winner with several",
    "resume": "a search resumes by itself: rerun its command, without resume",
    **dict.fromkeys(
        ("data.name", "data.seed", "data.val_size", "data.path", "data", "data.distance"),
        "accuracies on other reviews cannot be compared",
    ),
    "data.train_on_val": "accuracies on reviews that were trained on cannot be compared",
    **dict.fromkeys(
        ("trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer"),
        "the devices are the same for all trials",
    ),
}
SWEEPER_RULES = {
    "n_trials": integer(1, 100_000),
    "max_concurrent": integer(1, 1_000),
    "sampler": one_of("tpe", "random"),
    "pruner": one_of("median", "none"),
    **dict.fromkeys(("n_startup_trials", "pruner_startup_trials", "n_warmup_epochs"), integer(0)),
}


class CommandLine(NamedTuple):
    """The parsed overrides of a command line."""

    errors: list[str]  # one line each
    jobs: list[DictConfig]  # the configuration of every job; of a grid, of each combination
    overrides: list[str]  # as Hydra takes them
    naming: list[str]  # of a grid, one more for Hydra: what a run's name omits
    swept: list[str]  # overrides with several values
    multirun: bool  # True for a grid, even of a single run
    names: list[str]  # of a grid, the directories of `jobs`
    directory: str  # of the run or the grid
    sweep_named: bool  # True if the grid's directory has a name instead of the time
    swept_keys: Sequence[str] = ()  # of a grid, in the order of the command line
    space: Sequence[Dimension] = ()  # of a search; `jobs` are its extremes then
    sweeper: Mapping[str, Any] = {}  # the keys of hydra.sweeper
    remote: bool = False  # True if the runs of a grid are on other machines


def check_command_line(
    overrides: Sequence[str], multirun: bool = False, config_dir: str | None = None
) -> CommandLine:
    """Parse overrides, of a run or a grid. Reads conf/ and creates nothing.

    `config_dir` is a folder of the user's own configuration files (Hydra's --config-dir). A glob
    over a group's options is replaced by their list: Hydra's own sees no options in sub-folders.
    """
    folders = [absolute_path(config_dir)] if config_dir else []
    search = [f"hydra.searchpath={folders!r}"] if folders else []
    line = CommandLine([], [], [], [], [], multirun, [], "", False)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = _groups(conf_dir(), *folders)
        parser = OverridesParser.create(config_loader=loader)
        parsed: list[Override] = []
        intervals: list[str] = []
        for text in overrides:
            if "=" not in text and not text.startswith("~"):
                line.errors.append(f"{text}: must be KEY=VALUE{_option_hint(text, groups)}")
                continue
            try:
                (override,) = parser.parse_overrides([with_plus(text)])
                values = _values(override, groups)
            except (HydraException, OmegaConfBaseException) as error:
                line.errors.append(f"{text}: {_grammar_error(text, error)}")
                continue
            group = override.key_or_group
            choice = None if override.is_sweep_override() else override.value()
            if group in SEVERAL and isinstance(choice, list):
                unknown = [name for name in choice if name not in groups[group]]
                line.errors.extend(_wrong_name(group, name, groups[group]) for name in unknown)
                if not unknown:
                    line.overrides.append(str(override.input_line))
                    parsed.append(override)
                continue
            several = isinstance(choice, list | dict)  # of which Hydra checks nothing
            if group.startswith("hydra/") and not override.is_sweep_override():
                several = not isinstance(choice, str)
            if several and (group in groups or group.startswith("hydra/")):
                line.errors.append(f"{text}: {group} must be one name")
                continue
            if isinstance(override.value(), IntervalSweep):
                intervals.append(text)
            elif override.is_sweep_override() and values is None:
                line.errors.append(f"{text}: a grid needs a list of values, such as 0.1,0.01")
                continue
            if override.is_sweep_override():
                line.swept.append(text)
            if values is not None and not isinstance(override.value(), RangeSweep):
                expanded = with_plus(f"{override.get_key_element()}={','.join(values)}")
                if values:
                    (override,) = parser.parse_overrides([expanded])
                else:
                    line.errors.append(f"{text}: no option matches")
                    continue
            line.overrides.append(str(override.input_line))
            parsed.append(override)
        try:
            is_grid, params, folder, sweeper = _grid(parsed, search, multirun)
            own = parser.parse_overrides([with_plus(f"{k}={v}") for k, v in params.items()])
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            line.errors.append(f"hydra.sweeper: {one_line(error)}")
            return line._replace(errors=list(dict.fromkeys(line.errors)))
        named = folder != "" and "${now" not in folder
        line = line._replace(multirun=multirun or is_grid, sweep_named=named)
        if not line.multirun:
            line.errors.extend(
                f"{text}: several values are a grid; add -m to run all of them"
                for text in line.swept
                if text not in intervals
            )
        given = {override.get_key_element() for override in parsed}
        every = [override for override in own if override.get_key_element() not in given] + parsed
        if line.multirun:
            line.naming.append(_naming(parsed, is_grid, named))
        if sweeper is not None and not line.multirun and "hydra/sweeper" in given:
            line.errors.append("hydra/sweeper=optuna: add -m to search")
        if sweeper is not None and line.multirun:
            wrong, space, jobs = _search(every, sweeper)
            line.errors.extend(wrong)
            swept = [one.name for one in space]
            line = line._replace(space=space, sweeper=sweeper)
        else:
            line.errors.extend(
                f"{text}: an interval needs a search, -m hydra/sweeper=optuna; a grid needs a list "
                "of values, such as 0.1,0.01"
                for text in intervals
            )
            axes = [
                _axis(override, line.multirun)
                for override in every
                if not isinstance(override.value(), IntervalSweep)
            ]
            swept = [axis[0].partition("=")[0].lstrip("+") for axis in axes if len(axis) > 1]
            jobs = [*product(*axes)]
        line = line._replace(swept_keys=swept)
        base_of = cache(_base)  # a large grid has few choices of groups
        for choices in jobs:
            job = parser.parse_overrides(list(choices))
            wrong, cfg = _check_job(job, groups, [*search, *line.naming], base_of)
            line.errors.extend(wrong)
            if cfg is not None:
                line.jobs.append(cfg)
                if line.multirun and not line.space:
                    with names_of_grid(swept):
                        line.names.append(str(cfg.hydra.sweep.subdir))
                where = cfg.hydra.sweep if line.multirun else cfg.hydra.run
                target = str(cfg.hydra.launcher.get("_target_"))
                line = line._replace(
                    directory=absolute_path(where.dir),
                    remote=line.multirun and target.endswith(".Slurm"),
                )
                if line.multirun:
                    line.errors.extend(_wrong_processes(cfg, target.rpartition(".")[2]))
                with open_dict(cfg):
                    del cfg["hydra"]
        twice = {name for name in line.names if line.names.count(name) > 1}
        line.errors.extend(f"{name}: twice in the grid" for name in sorted(twice))
    return line._replace(errors=list(dict.fromkeys(line.errors)))


def with_plus(text: str) -> str:
    """Hydra wants two before a key that conf/ does not have; here it needs none."""
    key = text.partition("=")[0]
    return f"++{text}" if key in ADDED_KEYS or _is_of_component(key) else text


def _is_of_component(key: str) -> bool:
    """True for an argument of a callback or a logger: Lightning knows which there are."""
    return key.count(".") > 1 and key.split(".")[0] in SEVERAL


def _option_hint(text: str, groups: dict[str, list[str]]) -> str:
    """ "; did you mean model=gru?" if it is an option of a group."""
    group = next((name for name, options in groups.items() if text in options), None)
    return f"; did you mean {group}={text}?" if group else did_you_mean(text, [*groups])


def _grammar_error(text: str, error: Exception) -> str:
    """What Hydra's grammar does not accept, without the names of its tokens."""
    if text.endswith(","):
        return "ends in a comma"
    reason = one_line(error).split(" See https://")[0]
    if any(
        token in reason for token in ("mismatched input", "LexerNoViable", "extraneous", "viable")
    ):
        key, _, value = text.partition("=")
        return f"has characters with a meaning of their own; quote it: \"{key}='{value}'\""
    return reason


def _grid(
    overrides: list[Override], search: list[str], multirun: bool
) -> tuple[bool, dict[str, str], str, dict[str, Any] | None]:
    """True if the chosen experiment is a grid; its axes; the grid's directory; the sweeper.

    The directory is not interpolated yet, so that the time is not in it; empty if nothing is
    chosen. The sweeper is the keys of hydra.sweeper, None for Hydra's own, which runs a grid.
    Raises ValueError, or Hydra's or OmegaConf's errors, for a wrong sweeper.
    """
    chosen = [
        str(override.input_line)
        for override in overrides
        if not override.is_sweep_override()
        and (override.key_or_group == "experiment" or override.key_or_group.startswith("hydra"))
    ]
    if not chosen:
        return False, {}, "", None
    try:
        cfg = compose("config", overrides=[*search, *chosen], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError):
        return False, {}, "", None  # each job's own check says what is wrong
    sweep = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
    assert isinstance(sweep, dict)
    is_grid = cfg.hydra.mode == RunMode.MULTIRUN
    if not isinstance(cfg.hydra.sweeper, DictConfig):
        raise ValueError("must be the keys of a sweeper")
    own: dict[str, Any] = {str(key): value for key, value in cfg.hydra.sweeper.items()}
    params = own.get("params") or {}
    if not isinstance(params, DictConfig | dict):
        raise ValueError("params must be keys and their values")
    axes = {str(key): str(value) for key, value in params.items()} if is_grid or multirun else {}
    is_search = str(own.get("_target_")).endswith(".OptunaSweeper")
    return is_grid, axes, sweep["dir"], own if is_search else None


def _search(
    overrides: list[Override], sweeper: Mapping[str, Any]
) -> tuple[list[str], list[Dimension], list[tuple[str, ...]]]:
    """The errors of a search, its space, and the overrides of jobs at the extremes of the space."""
    errors, space = [], []
    fixed = []  # what each override is, of the space its first extreme
    for override in last_of_each(overrides):
        try:
            found = dimension(override)
        except ValueError as error:
            errors.append(f"{override.input_line}: {error}")
            continue
        if found is None:
            fixed.append(_axis(override, True)[0])
        else:
            space.append(found)
            fixed.append(found.extremes[0])
    if not space and not errors:
        errors.append(
            "nothing to search: give a key several values, such as model.hidden_size=32,64, or "
            "'optim.lr=tag(log,interval(1e-4,1e-2))'"
        )
    for one in space:
        if one.name in NOT_SEARCHED:
            errors.append(f"{one.name}: {NOT_SEARCHED[one.name]}")
        elif one.name.split(".")[0].split("/")[0] == "hydra":
            errors.append(f"{one.name}: a search has one value of it")
    errors += [
        f"hydra.sweeper.{key}: no such key{did_you_mean(key, SWEEPER_RULES)}"
        for key in sweeper
        if key not in SWEEPER_RULES and key not in ("_target_", "params")
    ]
    errors += [
        f"hydra.sweeper.{key}={sweeper.get(key)}: must be {rule.description}"
        for key, rule in SWEEPER_RULES.items()
        if not rule.accepts(sweeper.get(key))
    ]
    at = {one.key: fixed.index(one.extremes[0]) for one in space}
    jobs = [tuple(fixed)]
    for one in space:
        for text in one.extremes[1:]:
            jobs.append((*fixed[: at[one.key]], text, *fixed[at[one.key] + 1 :]))
    return errors, space, jobs


def _naming(overrides: list[Override], is_grid: bool, named: bool) -> str:
    """Omit from a run's name what the directory's name has, or what all runs have in common.

    A directory with a name may hold grids with different constants.
    """
    keys = {"experiment"} if is_grid else set()
    if not named:
        keys |= {o.key_or_group for o in overrides if not o.is_sweep_override()} - {"experiment"}
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(sorted(keys))}]"


def _axis(override: Override, multirun: bool) -> list[str]:
    """The choices of one override, written as Hydra's sweeper writes them for its jobs."""
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    if override.is_sweep_override() or override.is_delete() or not multirun:
        return [str(override.input_line)]
    return [f"{key}={override.get_value_element_as_str()}"]


def _values(override: Override, groups: dict[str, list[str]]) -> list[str] | None:
    """The values of a sweep; None if nothing is swept, or the sweep is no list of values."""
    if not override.is_sweep_override():
        return None
    pattern = override.value()
    if isinstance(pattern, Glob) and override.key_or_group in groups:
        return pattern.filter(groups[override.key_or_group])
    if override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    return None


def _groups(*folders: str | Path) -> dict[str, list[str]]:
    """The options of every group; files whose names start with _ are parts of other files."""
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for path, _, names in os.walk(folder, followlinks=True):
            for name in fnmatch.filter(names, "[!_]*.yaml"):
                group, *option = Path(path, name).relative_to(folder).with_suffix("").parts
                if option and group != "hydra":
                    groups.setdefault(group, set()).add("/".join(option))
    return {group: sorted(options) for group, options in groups.items()}


def _base(*chosen: str) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration with these groups chosen, Hydra's included, and its own keys."""
    cfg = compose("config", overrides=list(chosen), return_hydra_config=True)
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return cfg, flatten(OmegaConf.to_container(own, resolve=False))


def _compose(base: DictConfig, chosen: Sequence[str], values: Sequence[Override]) -> DictConfig:
    """The configuration of one job: as Hydra composes it, from `base` if its values are plain."""
    if any(o.is_add() or o.is_force_add() or o.key_or_group.startswith("hydra") for o in values):
        right = [str(override.input_line) for override in values]
        return compose("config", overrides=[*chosen, *right], return_hydra_config=True)
    cfg = copy.deepcopy(base)
    for override in values:
        OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
    options = cfg.hydra.job.config.override_dirname
    own = [text for text in chosen if not text.startswith("hydra")]
    names = OverridesParser.create().parse_overrides(own)
    cfg.hydra.job.override_dirname = get_overrides_dirname(
        [*names, *values], options.exclude_keys, options.item_sep, options.kv_sep
    )
    return cfg


def _check_job(
    overrides: list[Override],
    groups: dict[str, list[str]],
    search: list[str],
    base_of: Callable[..., tuple[DictConfig, dict[str, Any]]],
) -> tuple[list[str], DictConfig | None]:
    """The errors of one job, and the configuration that its correct overrides compose."""
    errors = []
    chosen, values = [], []
    for override in overrides:
        key = override.key_or_group
        if key in groups:
            wrong = _wrong_choice(override, groups[key])
            chosen += [] if wrong else [str(override.input_line)]
            errors += [wrong] if wrong else []
        elif key.startswith("hydra/"):  # such as hydra/launcher: Hydra knows its options
            chosen.append(str(override.input_line))
        else:
            values.append(override)
    try:
        base, known = base_of(*search, *chosen)
    except (HydraException, OmegaConfBaseException) as error:
        return [*errors, one_line(error)], None
    right = []
    loggers = _chosen_loggers(chosen, known)
    for override in values:
        wrong = _wrong_key(override, known, groups) or _wrong_logger(override, loggers)
        right += [] if wrong else [override]
        errors += [wrong] if wrong else []
    try:
        cfg = _compose(base, [*search, *chosen], right)
        own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        errors += check_values(own)
        errors += _taken_directories(values, cfg)
        errors += _wrong_launcher(cfg.hydra.launcher)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return [*errors, one_line(error)], None
    return errors, cfg


def _chosen_loggers(chosen: Sequence[str], known: Mapping[str, Any]) -> set[str]:
    """The names of the loggers that a job has, by its choices and its files."""
    names = {key.split(".")[1] for key in known if key.startswith("logger.")}
    given = [text.partition("=")[2] for text in chosen if text.startswith("logger=")]
    return names | set(re.findall(r"\w+", given[-1] if given else "tensorboard"))


def _wrong_logger(override: Override, loggers: set[str]) -> str | None:
    """An argument alone does not choose a logger: that could report to a server."""
    group, _, rest = override.key_or_group.partition(".")
    name = rest.split(".")[0]
    if group != "logger" or not rest or name in loggers or name not in LOGGERS:
        return None
    text = str(override.input_line).lstrip("+")
    return f"{text}: needs logger={name}, or several as logger=[tensorboard,{name}]"


def _wrong_choice(override: Override, options: list[str]) -> str | None:
    choice = override.value()
    group = override.key_or_group
    if override.is_delete() and group not in ("experiment", "pretrain"):
        return f"{override.input_line}: a run needs {group}"
    if choice is None and group in ("experiment", "pretrain"):
        return f"{override.input_line}: none is the default; omit it"
    if isinstance(choice, list) and group in SEVERAL:
        return None  # they have been looked up already
    if choice in options:
        if override.is_add():
            return f"{override.input_line}: write {group}={choice}, without the +"
        return None
    return _wrong_name(group, choice, options)


def _wrong_name(group: str, choice: Any, options: list[str]) -> str:
    if group == "callbacks" and choice in REFUSED_CALLBACKS:
        return f"{group}={choice}: {REFUSED_CALLBACKS[choice]}"
    shown = dict.fromkeys(re.sub("/.*", "/...", option) for option in options)
    hint = did_you_mean(str(choice), options)
    choice = "null" if choice is None else choice
    none = f", or none: '{group}=[]'" if group in SEVERAL else ""
    return f"{group}={choice}: {group} must be one of {', '.join(shown)}{none}{hint}"


def _wrong_key(
    override: Override, known: dict[str, Any], groups: dict[str, list[str]]
) -> str | None:
    key = override.key_or_group
    line = str(override.input_line)
    if key.startswith("hydra.") or key == "hydra":
        return None
    if override.is_delete():
        return f"{line}: no key can be removed"
    is_known = key in known or any(name.startswith(f"{key}.") for name in known)
    if key in ("optim.name", "schedule.name"):
        return f"{line}: write {key.removesuffix('.name')}={override.get_value_element_as_str()}"
    if is_known and override.is_add():
        return f"{line}: {key} already exists; drop the +"
    adds = override.is_add() or override.is_force_add()
    if is_known or (adds and _may_be_added(key, known)):
        return None
    return f"{line}: {_unknown_key(key, known, groups)}"


def _unknown_key(key: str, known: dict[str, Any], groups: dict[str, list[str]]) -> str:
    """Why there is no such key here, and what is meant."""
    name = key.removeprefix("trainer.")
    if key in KEYS and KEYS[key].only:
        return f"no key {key} here: it needs {KEYS[key].only}"
    if name in SYNONYMS:
        return f"no key {key}; did you mean {SYNONYMS[name]}?"
    if f"trainer.{key}" in KEYS:
        return f"no key {key}; did you mean trainer.{key}?"
    if name in REFUSED_ARGUMENTS:
        return f"{name} of lightning.Trainer: {REFUSED_ARGUMENTS[name]}"
    return f"no key {key}{did_you_mean(key, [*known, *groups, *ADDED_KEYS])}"


def _may_be_added(key: str, known: dict[str, Any]) -> bool:
    if _is_of_component(key):
        return True
    if key.startswith("model.cell."):
        return "model.cell._target_" in known
    return key in ADDED_KEYS


def _taken_directories(overrides: list[Override], cfg: DictConfig) -> list[str]:
    """A run never writes into the directory of another one."""
    given = {override.key_or_group for override in overrides}
    if "hydra.sweep.subdir" in given:
        return ["hydra.sweep.subdir: a run of a grid is named after its overrides; omit it"]
    if "hydra.run.dir" not in given or cfg.hydra.mode == RunMode.MULTIRUN:
        return []
    folder = absolute_path(str(cfg.hydra.run.dir))
    if cfg.get("resume") == "auto" or not Path(folder, "metrics.json").exists():
        return []
    return [f"hydra.run.dir={folder}: already contains a run; name a new directory"]


def _wrong_processes(cfg: DictConfig, launcher: str) -> list[str]:
    """Why the launcher of a grid cannot start this run's processes."""
    devices, nodes = cfg.trainer.get("devices", 1), cfg.trainer.get("num_nodes", 1)
    if launcher == "Slurm":
        return []
    if nodes != 1:
        return [f"trainer.num_nodes={nodes}: in a grid it needs hydra/launcher=slurm"]
    if launcher != "LocalPool" and devices != 1 and not isinstance(devices, ListConfig):
        return [f"trainer.devices={devices}: in a grid it needs hydra/launcher=local_pool or slurm"]
    return []


def _is_command(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(shlex.split(value))
    except ValueError:
        return False


LAUNCHER_RULES = {
    "LocalPool": {"n_jobs": or_null(integer(1)), "timeout": or_null(number(0, above=True))},
    "Slurm": {
        "cpus_per_task": integer(1),
        "signal_delay_s": integer(1, 65_535),
        "mem_gb": or_null(number(0.1)),
        **dict.fromkeys(("timeout_min", "gpus_per_node", "array_parallelism"), or_null(integer(1))),
        **dict.fromkeys(("partition", "account", "qos", "constraint"), or_null(STR)),
        "prefix": or_null(Rule(_is_command, "a command without an open quote")),
        "setup": or_null(
            Rule(
                lambda v: isinstance(v, ListConfig) and all(map(STR.accepts, v)), "a list of lines"
            )
        ),
        "more": or_null(Rule(lambda v: isinstance(v, DictConfig), "options and their values")),
    },
}


def _wrong_launcher(launcher: DictConfig) -> list[str]:
    """The errors in the keys of this project's launchers; other ones check their own."""
    rules = LAUNCHER_RULES.get(str(launcher.get("_target_")).rpartition(".")[2], {})
    limit, delay = launcher.get("timeout_min"), launcher.get("signal_delay_s")
    lines = []
    if isinstance(limit, int) and isinstance(delay, int) and 60 * limit <= delay + 60:
        lines.append(
            f"hydra.launcher.timeout_min={limit}: must leave more than a minute before the last "
            f"{delay} s (hydra.launcher.signal_delay_s)"
        )
    return lines + [
        f"hydra.launcher.{key}={launcher.get(key)}: must be {rule.description}"
        for key, rule in rules.items()
        if not rule.accepts(launcher.get(key))
    ]
