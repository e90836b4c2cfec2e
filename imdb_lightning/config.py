"""The configuration: where conf/ is, and what is wrong with a command line before anything runs.

Hydra composes the configuration; this module finds the mistakes that Hydra reports one at a time,
without a hint, or not at all. It imports neither torch nor lightning, so that answers are quick.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException


def conf_dir() -> Path:
    """conf/ inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise SystemExit("imdb_lightning: conf/ is neither inside the package nor beside it; reinstall")


def run_name(overrides: str, dataset: str) -> str:
    """A directory name for one job of a sweep: its overrides, readable and safe.

    Two sets of overrides never share a name: where a character had to go, a hash is added.
    """
    readable = overrides.replace("experiment=", "").replace("/", "-") or "default"
    name = re.sub(r"[^\w=,.+-]", "_", readable)
    if name != readable or len(name) > 150:
        name = f"{name[:150]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"
    if dataset == "synthetic" and "synthetic" not in name:
        name += ",synthetic"
    return name


OmegaConf.register_new_resolver("run_name", run_name, replace=True)


# What a value may be


Check = Callable[[Any], bool]


def whole(least: int, most: float = math.inf) -> tuple[Check, str]:
    upto = f" to {most}" if most < math.inf else " or more"
    return (
        lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most,
        f"a whole number, {least}{upto}",
    )


def number(least: float, below: float = math.inf, *, above: bool = False) -> tuple[Check, str]:
    def check(v: Any) -> bool:
        is_number = isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
        return is_number and (v > least if above else v >= least) and v < below

    lower = f"above {least:g}" if above else f"{least:g} or more"
    return check, f"a number {lower}" + (f" and below {below:g}" if below < math.inf else "")


def one_of(*names: Any) -> tuple[Check, str]:
    texts = ", ".join("null" if name is None else str(name).lower() for name in names)
    return lambda v: any(v is name or (v == name and type(v) is type(name)) for name in names), (
        f"one of {texts}"
    )


def or_null(rule: tuple[Check, str]) -> tuple[Check, str]:
    check, what = rule
    return lambda v: v is None or check(v), f"{what}, or null"


TEXT = (lambda v: isinstance(v, str) and bool(v.strip()), "a text")
TEXTS = (
    lambda v: TEXT[0](v) or (isinstance(v, list) and len(v) > 0 and all(map(TEXT[0], v))),
    "a text or a list of texts",
)
SWITCH = one_of(True, False)
ONE_DEVICE = (
    lambda v: v in (1, "1", "auto") or (isinstance(v, list) and len(v) == 1),
    "1, or a list of one device number such as [0]; a sweep spreads runs over devices",
)

RULES: dict[str, tuple[Check, str]] = {
    "seed": whole(0, 2**32 - 1),
    "test_checkpoint": one_of("last", "best"),
    "resume": or_null(TEXT),
    "pretrained": or_null(TEXT),
    "teacher": or_null(TEXTS),
    "pretrain.name": one_of("vectors"),
    "pretrain.window": whole(1),
    "pretrain.negatives": whole(1),
    "checkpoint.every_minutes": or_null(number(0, above=True)),
    "checkpoint.every_steps": or_null(whole(1)),
    "optim.lr": number(0, above=True),
    "optim.weight_decay": number(0),
    "optim.pretrained_lr": number(0, above=True),
    "optim.schedule": one_of("constant", "one_cycle"),
    "optim.average": or_null(number(0, 1)),
    "optim.adversarial": or_null(number(0, above=True)),
    "data.name": one_of("imdb", "synthetic"),
    "data.path": or_null(TEXT),
    "data.fallback": one_of("synthetic", None),
    "data.train_size": whole(2, 1_000_000),
    "data.test_size": whole(2, 1_000_000),
    "data.val_size": whole(2, 1_000_000),
    "data.distance": whole(0),
    "data.seed": whole(0),
    "data.refit": SWITCH,
    "data.unsupervised": SWITCH,
    "data.vocab_size": whole(3),
    "data.max_length": whole(2),
    "data.truncation": one_of("head", "tail", "head_tail"),
    "data.batch_size": whole(1),
    "data.num_workers": whole(0),
    "data.cache_dir": or_null(TEXT),
    "model.name": TEXT,
    "model.embedding_size": whole(1),
    "model.hidden_size": whole(1),
    "model.num_layers": whole(1),
    "model.bidirectional": SWITCH,
    "model.dropout": number(0, 1),
    "model.embedding_dropout": number(0, 1),
    "model.word_dropout": number(0, 1),
    "model.pooling": one_of("mean", "max", "last", "mean_max", "mean_padded"),
    "model.loss": one_of("cross_entropy", "nll", "nll_on_raw_logits"),
    "model.implementation": one_of("fused", "compile", "loop"),
    "model.cell.reset": one_of("before", "after"),
    "trainer.max_epochs": whole(1),
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": ONE_DEVICE,
    "trainer.precision": one_of("32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed"),
    "trainer.gradient_clip_val": or_null(number(0, above=True)),
    "trainer.early_stopping": or_null(whole(1)),
    "trainer.deterministic": SWITCH,
}
OF_CELLS = ("model.implementation", "model.cell.reset")
HOW = ("resume", "checkpoint.every_minutes", "checkpoint.every_steps")  # not in all older runs
LATER: dict[str, Any] = {  # what older runs lack, and the values with which they are the same
    "model.embedding_dropout": 0.0,
    "model.word_dropout": 0.0,
    "data.refit": False,
    "data.unsupervised": False,
    "pretrained": None,
    "teacher": None,
    "optim.pretrained_lr": 1.0,
    "optim.schedule": "constant",
    "optim.average": None,
    "optim.adversarial": None,
}
OF_PRETRAINING = tuple(key for key in RULES if key.startswith("pretrain."))
OPTIONAL = ("data.path", "data.fallback", *HOW, *OF_CELLS, *OF_PRETRAINING)
REQUIRED = [key for key in RULES if key not in OPTIONAL]
ADDITIONS = {  # what lightning.Trainer takes besides, as +trainer.NAME=VALUE
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.detect_anomaly": SWITCH,
    "trainer.gradient_clip_algorithm": one_of("norm", "value"),
    "trainer.limit_train_batches": number(0, above=True),
    "trainer.limit_val_batches": number(0, above=True),
    "trainer.limit_test_batches": number(0, above=True),
}
RULES |= ADDITIONS


def wrong_values(cfg: DictConfig) -> list[str]:
    """One line for each value of a composed configuration that is missing or out of its range."""
    values = flat(OmegaConf.to_container(cfg, resolve=True))
    mistakes = [f"{key} is missing: {RULES[key][1]}" for key in REQUIRED if key not in values]
    for key, value in values.items():
        if key in RULES and not RULES[key][0](value):
            shown = "null" if value is None else value
            mistakes.append(f"{key}={shown}: it takes {RULES[key][1]}{nearest_choice(key, value)}")
    mistakes += [f"{key} is missing: {RULES[key][1]}" for key in HOW if key not in values]
    if not ("model.layer._target_" in values or "model.cell._target_" in values):
        mistakes.append("model has neither layer._target_ (PyTorch's) nor cell._target_")
    if "model.cell._target_" in values and "model.implementation" not in values:
        mistakes.append(f"model.implementation is missing: {RULES['model.implementation'][1]}")
    distance, length = values.get("data.distance"), values.get("data.max_length")
    if values.get("data.name") == "synthetic" and isinstance(distance, int):
        if isinstance(length, int) and distance + 40 >= length > 0:
            mistakes.append(
                f"data.distance={distance}: it needs data.max_length={distance + 41} or more"
            )
    if "pretrain.name" in values:
        if values.get("pretrained") is not None:
            mistakes.append("pretrained: word vectors begin with nothing; leave it away")
        if values.get("teacher") is not None:
            mistakes.append("teacher: a pretraining takes no labels; leave it away")
    elif values.get("teacher") is not None:
        if not values.get("data.unsupervised"):
            mistakes.append("teacher: it tells the reviews of data.unsupervised=true")
        if values.get("model.loss") != "cross_entropy":
            mistakes.append(
                "teacher: it tells probabilities, for which model.loss=cross_entropy is"
            )
    if values.get("pretrained") is None and values.get("optim.pretrained_lr") != 1:
        mistakes.append("optim.pretrained_lr: nothing is pretrained; pretrained=DIRECTORY is")
    if values.get("optim.adversarial") and values.get("trainer.precision") == "16-mixed":
        mistakes.append("optim.adversarial: not with trainer.precision=16-mixed; take bf16-mixed")
    if values.get("data.refit") and "pretrain.name" not in values:
        if values.get("test_checkpoint") != "last" or values.get("trainer.early_stopping"):
            mistakes.append(
                "data.refit=true: val is trained on and chooses nothing more; it needs "
                "test_checkpoint=last and trainer.early_stopping=null"
            )
    path = values.get("data.path")
    real = values.get("data.name") == "imdb"
    if real and isinstance(path, str) and not os.path.exists(full(path)):
        mistakes.append(
            f"data.path={path}: no such file or folder; give a parquet folder, an aclImdb folder "
            "or aclImdb_v1.tar.gz (IMDB_DATA in the environment sets data.path too)"
        )
    return mistakes


def full(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """{"model.hidden_size": 64, ...}: the leaves of nested dictionaries."""
    leaves: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


MACHINE = ("data.path", "data.cache_dir", "data.num_workers", "data.fallback")


def comparable(cfg: DictConfig) -> dict[str, Any]:
    """What makes two runs the same: the configuration, flat, without this machine's matters."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    values = flat(OmegaConf.to_container(own, resolve=True))
    return {
        key: value
        for key, value in values.items()
        if key not in (*MACHINE, *HOW) and not (key in LATER and value == LATER[key])
    }


BEFORE = ("pretrained", "teacher")  # earlier runs that a run takes something from


def digest(cfg: DictConfig, seed: bool = True, before: bool = True) -> str:
    """A hash of `comparable`, with or without the seed, and where the earlier runs are.

    0 and 0.0 are one number.
    """
    left_out = (*(() if seed else ("seed",)), *(() if before else BEFORE))
    values = {
        key: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for key, value in comparable(cfg).items()
        if key not in left_out
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def quoted(text: str) -> str:
    """A text as a value of Hydra's override grammar."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * trailing}'"


def nearest_choice(key: str, value: Any) -> str:
    what = RULES[key][1]
    if not (isinstance(value, str) and what.startswith("one of ")):
        return ""
    return nearest(value, what.removeprefix("one of ").split(", "))


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?", or nothing where no known word is near."""
    candidates = list(known)
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if not close:  # the right name in the wrong place, such as hidden_size for model.hidden_size
        close = [c for c in candidates if c.split(".")[-1] == word.split(".")[-1]][:1]
    return f"; did you mean {close[0]}?" if close else ""


# What a command line says


class CommandLine(NamedTuple):
    """What the overrides of a command line come to."""

    mistakes: list[str]  # a line each; empty where all is well
    jobs: list[DictConfig]  # the configuration of every job; one for each combination of a grid
    overrides: list[str]  # as Hydra is to have them
    naming: list[str]  # and this one beside them in a grid: what is not in a run's name
    swept: list[str]  # those that have several values
    multirun: bool  # a grid, also one of a single run
    names: list[str]  # of the grid's runs, the directories of `jobs`
    directory: str  # of the run or the grid
    sweep_named: bool  # it is a name, not the time


def check(
    overrides: Sequence[str], multirun: bool = False, config_dir: str | None = None
) -> CommandLine:
    """Every mistake of these overrides, sweeps included; nothing is created or read but conf/.

    `config_dir` is a folder of the user's own configuration files (Hydra's --config-dir). A glob
    over a group's options comes back as their list: Hydra's own sees no options in sub-folders.
    """
    folders = [full(config_dir)] if config_dir else []
    search = [f"hydra.searchpath={folders!r}"] if folders else []
    line = CommandLine([], [], [], [], [], multirun, [], "", False)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = _groups(conf_dir(), *folders)
        parser = OverridesParser.create(config_loader=loader)
        parsed: list[Override] = []
        for text in overrides:
            try:
                (override,) = parser.parse_overrides([text])
                values = _values(override, groups)
            except (HydraException, OmegaConfBaseException) as error:
                line.mistakes.append(f"{text}: {one_line(error)}")
                continue
            if values is not None:
                line.swept.append(text)
                expanded = f"{override.get_key_element()}={','.join(values)}"
                if values:
                    (override,) = parser.parse_overrides([expanded])
                else:
                    line.mistakes.append(f"{text}: no option matches")
                    continue
            line.overrides.append(str(override.input_line))
            parsed.append(override)
        params, folder = _grid(parsed, search)
        named = folder != "" and "${now" not in folder
        line = line._replace(multirun=multirun or params is not None, sweep_named=named)
        if not line.multirun:
            line.mistakes.extend(
                f"{text}: several values make a grid; add -m to run them all" for text in line.swept
            )
        given = {override.get_key_element() for override in parsed}
        own = [f"{key}={value}" for key, value in (params or {}).items() if key not in given]
        axes = [_axis(override, line.multirun) for override in parser.parse_overrides(own) + parsed]
        if line.multirun:
            line.naming.append(_naming(parsed, params is not None, named))
        known_of = cache(_known)  # a large grid has few choices of groups
        for choices in product(*axes):
            job = parser.parse_overrides(list(choices))
            wrong, cfg = _check_job(job, groups, [*search, *line.naming], known_of)
            line.mistakes.extend(wrong)
            if cfg is not None:
                line.jobs.append(cfg)
                if line.multirun:
                    line.names.append(str(cfg.hydra.sweep.subdir))
                where = cfg.hydra.sweep if line.multirun else cfg.hydra.run
                line = line._replace(directory=full(where.dir))
                with open_dict(cfg):
                    del cfg["hydra"]
        twice = {name for name in line.names if line.names.count(name) > 1}
        line.mistakes.extend(f"the grid has {name} twice" for name in sorted(twice))
    return line._replace(mistakes=list(dict.fromkeys(line.mistakes)))


def _grid(overrides: list[Override], search: list[str]) -> tuple[dict[str, str] | None, str]:
    """The axes that the chosen experiment brings, None where it is no grid, and a grid's directory.

    The directory comes as it is written, with the time not yet in it; empty where none is chosen.
    """
    chosen = [
        str(override.input_line)
        for override in overrides
        if not override.is_sweep_override()
        and (override.key_or_group == "experiment" or override.key_or_group.startswith("hydra"))
    ]
    if not chosen:
        return None, ""
    try:
        cfg = compose("config", overrides=[*search, *chosen], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError):
        return None, ""  # each job's own check says what is wrong
    sweep = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
    assert isinstance(sweep, dict)
    if cfg.hydra.mode != RunMode.MULTIRUN:
        return None, sweep["dir"]
    return dict(cfg.hydra.sweeper.params or {}), sweep["dir"]


def _naming(overrides: list[Override], is_grid: bool, named: bool) -> str:
    """Leave out of a run's name what its directory's has, or what all runs have in common.

    A directory with a name takes grids of any constants.
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
    """The values of a sweep; None where nothing is swept, or the sweep is no list of values."""
    if not override.is_sweep_override():
        return None
    pattern = override.value()
    if isinstance(pattern, Glob) and override.key_or_group in groups:
        return pattern.filter(groups[override.key_or_group])
    if override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    return None


def _groups(*folders: str | Path) -> dict[str, list[str]]:
    """The options of every group; files whose name starts with _ are for other files."""
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for path, _, names in os.walk(folder, followlinks=True):
            for name in fnmatch.filter(names, "[!_]*.yaml"):
                group, *option = Path(path, name).relative_to(folder).with_suffix("").parts
                if option and group != "hydra":
                    groups.setdefault(group, set()).add("/".join(option))
    return {group: sorted(options) for group, options in groups.items()}


def _known(*chosen: str) -> dict[str, Any]:
    """The keys of the configuration with these groups chosen, and their values as written."""
    return flat(OmegaConf.to_container(compose("config", overrides=list(chosen)), resolve=False))


def _check_job(
    overrides: list[Override],
    groups: dict[str, list[str]],
    search: list[str],
    known_of: Callable[..., dict[str, Any]],
) -> tuple[list[str], DictConfig | None]:
    """The mistakes of one job; its configuration, as far as the right overrides make one."""
    mistakes = []
    chosen, values = [], []
    for override in overrides:
        key = override.key_or_group
        if key in groups:
            wrong = _wrong_choice(override, groups[key])
            chosen += [] if wrong else [str(override.input_line)]
            mistakes += [wrong] if wrong else []
        elif key.startswith("hydra/"):  # such as hydra/launcher: Hydra knows its options
            chosen.append(str(override.input_line))
        else:
            values.append(override)
    try:
        known = known_of(*search, *chosen)
    except (HydraException, OmegaConfBaseException) as error:
        return [*mistakes, one_line(error)], None
    right = []
    for override in values:
        wrong = _wrong_key(override, known, groups)
        right += [] if wrong else [str(override.input_line)]
        mistakes += [wrong] if wrong else []
    try:
        cfg = compose("config", overrides=[*search, *chosen, *right], return_hydra_config=True)
        own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        mistakes += wrong_values(own)
        mistakes += _taken_directories(values, cfg)
        mistakes += _wrong_launcher(cfg.hydra.launcher)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return [*mistakes, one_line(error)], None
    return mistakes, cfg


def _wrong_choice(override: Override, options: list[str]) -> str | None:
    choice = override.value()
    group = override.key_or_group
    if override.is_delete():
        return f"{override.input_line}: a run needs {group}"
    if choice is None and group in ("experiment", "pretrain"):
        return f"{override.input_line}: none is chosen where none is given; leave it away"
    if choice in options:
        if override.is_add():
            return f"{override.input_line}: write {group}={choice}, without +"
        return None
    shown = dict.fromkeys(re.sub("/.*", "/...", option) for option in options)
    return f"{group}={choice}: {group} is one of {', '.join(shown)}{nearest(str(choice), options)}"


def _wrong_key(
    override: Override, known: dict[str, Any], groups: dict[str, list[str]]
) -> str | None:
    key = override.key_or_group
    line = str(override.input_line)
    if key.startswith("hydra.") or key == "hydra":
        return None
    if override.is_delete():
        return f"{line}: every key is needed; nothing can be removed"
    is_known = key in known or any(name.startswith(f"{key}.") for name in known)
    if is_known and override.is_add():
        return f"{line}: {key} is there already; write it without +"
    adds = override.is_add() or override.is_force_add()
    if is_known or (adds and _may_be_added(key, known)):
        return None
    if key in ADDITIONS:
        return f"{line}: write +{line} (lightning.Trainer knows it, conf/ does not)"
    return f"{line}: no key {key}{nearest(key, [*known, *groups, *ADDITIONS])}"


def _may_be_added(key: str, known: dict[str, Any]) -> bool:
    if key.startswith("model.cell."):
        return "model.cell._target_" in known
    return key in ADDITIONS


def _taken_directories(overrides: list[Override], cfg: DictConfig) -> list[str]:
    """Where a directory is given: a run never goes where another one is."""
    given = {override.key_or_group for override in overrides}
    if "hydra.sweep.subdir" in given:
        return ["hydra.sweep.subdir: a run of a grid is named for its overrides; leave it away"]
    if "hydra.run.dir" not in given or cfg.hydra.mode == RunMode.MULTIRUN:
        return []
    folder = full(str(cfg.hydra.run.dir))
    if cfg.get("resume") == "auto" or not Path(folder, "metrics.json").exists():
        return []
    return [f"hydra.run.dir={folder}: there is a run in it; name a new directory"]


def _wrong_launcher(launcher: DictConfig) -> list[str]:
    """Of local_pool; other launchers check their own."""
    if not str(launcher.get("_target_")).endswith(".LocalPool"):
        return []
    rules = {"n_jobs": or_null(whole(1)), "timeout": or_null(number(0, above=True))}
    return [
        f"hydra.launcher.{key}={launcher.get(key)}: it takes {what}"
        for key, (check, what) in rules.items()
        if not check(launcher.get(key))
    ]


def one_line_of(text: str) -> str:
    return " ".join(str(text).split())[:300]


def one_line(error: Exception) -> str:
    """The first lines of Hydra's message, without its list of the search path."""
    text = str(error) or str(error.__cause__)
    text = text.split("\n    full_key:")[0].split("\nConfig search path:")[0]
    return one_line_of(text)
