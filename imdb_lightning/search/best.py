"""The best configuration of a search, as an experiment: experiment/best.yaml in its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from ..config.components import CALLBACKS, chosen
from ..config.identity import canonical_config, config_hash
from ..config.overrides import check_command_line
from ..runs import storage
from ..runs.run import Run


GROUPS = ("data", "model", "optim", "schedule")  # each has its option's name as a value
HEAD = """\
# @package _global_
# The best trial of a search: val/acc {accuracy:.4f} with seed {seed}. With other seeds:
# python -m imdb_lightning -m --config-dir {folder} experiment=best seed=1,2,3,4,5
"""


def write_experiment(folder: Path, path: Path) -> Path | None:
    """Write the configuration of the run in `path` to experiment/best.yaml.

    None if the run has been removed, or no experiment composes its configuration, such as one with
    the user's own groups.
    """
    run = Run(path)
    try:
        cfg = run.config
    except (OSError, ValueError):  # removed since
        return None
    file = folder / "experiment" / "best.yaml"
    choices: dict[str, Any] = {group: cfg[group].name for group in GROUPS}
    names = [name for name in chosen(cfg, "callbacks") if name in CALLBACKS]
    base = composed(
        [*(f"{group}={name}" for group, name in choices.items()), f"callbacks=[{','.join(names)}]"]
    )
    if base is None:
        return None
    defaults = [{f"override /{group}": name} for group, name in choices.items()]
    content = {"defaults": [*defaults, {"override /callbacks": names}], **changes(base, cfg)}
    head = HEAD.format(accuracy=run.val_accuracy, seed=cfg.seed, folder=folder)
    before = file.read_bytes() if file.exists() else None
    storage.atomic_write(file, (head + yaml.safe_dump(content, sort_keys=False)).encode())
    made = composed(["experiment=best", f"seed={cfg.seed}"], folder)
    if made is not None and config_hash(made) == config_hash(cfg):
        return file
    if before is None:
        file.unlink()
    else:
        storage.atomic_write(file, before)
    return None


def composed(overrides: list[str], folder: Path | None = None) -> DictConfig | None:
    """The configuration of these overrides; None if they have an error."""
    line = check_command_line(overrides, config_dir=None if folder is None else str(folder))
    return None if line.errors else line.jobs[0]


def changes(base: DictConfig, cfg: DictConfig) -> dict[str, Any]:
    """What an experiment has to set, nested."""
    before = canonical_config(base)
    found: dict[str, Any] = {}
    for key, value in canonical_config(cfg).items():
        if key != "seed" and (key not in before or before[key] != value):
            *groups, name = key.split(".")
            node: dict[str, Any] = found
            for group in groups:
                node = node.setdefault(group, {})
            node[name] = value
    return found
