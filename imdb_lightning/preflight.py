"""Preflight checks of what the jobs need of this machine. They create nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, ListConfig

from .config.components import LOGGERS, PACKAGES, SEVERAL, chosen
from .config.schema import devices_of
from .config.text import one_line


def check_devices(jobs: Sequence[DictConfig]) -> list[str]:
    """A line for each accelerator that is not available."""
    wanted = {cfg.trainer.accelerator for cfg in jobs}
    one = all(cfg.trainer.devices == 1 for cfg in jobs)
    if not wanted - {"auto", "cpu"} and (one or wanted == {"cpu"}):
        return []
    import torch  # late: takes seconds, and only this check needs it

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    most = max(map(devices_of, jobs))
    if cuda and most > torch.cuda.device_count():
        count = torch.cuda.device_count()
        return [f"trainer.devices={most}: this machine has {count} GPU{'s' * (count > 1)}"]
    if not cuda and any(isinstance(cfg.trainer.devices, ListConfig) for cfg in jobs):
        return ["trainer.devices: without a GPU there are no device numbers; give a count"]
    available = {"auto": True, "cpu": True, "gpu": cuda or mps, "cuda": cuda, "mps": mps}
    return [
        f"trainer.accelerator={name}: this machine has no such device; use trainer=cpu or auto"
        for name in sorted(wanted)
        if not available[name]
    ]


def check_precision(jobs: Sequence[DictConfig]) -> list[str]:
    """A line for each precision that this processor does not support in nn.LSTM."""
    half = {"16": "float16", "bf": "bfloat16"}
    wanted = {
        str(cfg.trainer.precision): half[str(cfg.trainer.precision)[:2]]
        for cfg in jobs
        if str(cfg.trainer.precision)[:2] in half
        and cfg.model.get("layer", {}).get("_target_") == "torch.nn.LSTM"
    }
    if not wanted:
        return []
    import torch  # late, as above

    if torch.cuda.is_available() and any(cfg.trainer.accelerator != "cpu" for cfg in jobs):
        return []
    lines = []
    for precision, name in wanted.items():
        try:
            with torch.autocast("cpu", dtype=getattr(torch, name)):
                torch.nn.LSTM(2, 2)(torch.zeros(3, 1, 2))
        except RuntimeError:
            lines.append(
                f"trainer.precision={precision}: PyTorch's LSTM does not support {name} on this "
                "processor; use model=gru, model=custom_lstm or trainer.precision=32-true"
            )
    return lines


def check_cells(jobs: Sequence[DictConfig]) -> list[str]:
    """A line for each third-party cell that cannot be instantiated."""
    wrong: dict[str, str] = {}
    for model in (cfg.model for cfg in jobs if "cell" in cfg.model):
        target = str(model.cell._target_)
        if target.startswith("imdb_lightning.") or target in wrong:
            continue
        from .model.network import cell_factory  # late: it imports torch

        try:
            cell_factory(model.cell)(2, 2)
        except Exception as error:  # noqa: BLE001  third-party code may raise anything
            reason = f"{type(error).__name__}: {one_line(error)}"
            wrong[target] = f"model.cell._target_={target}: {reason}"
    return list(wrong.values())


def check_components(jobs: Sequence[DictConfig]) -> list[str]:
    """A line for each callback or logger that lacks a package or does not take its arguments."""
    found = {  # of a grid each once
        (group, name, repr(given)): given
        for cfg in jobs
        for group in SEVERAL
        for name, given in chosen(cfg, group).items()
        if given != DEFAULTS.get(name)
    }
    lines = []
    for (group, name, _), given in found.items():
        package, source = PACKAGES.get(name, ("", ""))
        if package and find_spec(package) is None:
            lines.append(f"{group}={name} needs pip install '{source}'")
        else:
            lines += _wrong_arguments(group, name, given)
    return lines


DEFAULTS: dict[str, dict[str, Any]] = {"tensorboard": {}, "early_stopping": {"patience": None}}


def _wrong_arguments(group: str, name: str, given: dict[str, Any]) -> list[str]:
    import inspect

    import lightning.pytorch  # late: it takes seconds
    from torch.utils.tensorboard import SummaryWriter

    from .callbacks.configured import build_callback

    try:
        if group == "callbacks":
            build_callback(name, given)  # a logger could create files
        else:
            make: Any = getattr(lightning.pytorch.loggers, LOGGERS[name])
            if name == "tensorboard":  # the rest of its arguments are the writer's
                own = inspect.signature(make.__init__).parameters
                given = {key: value for key, value in given.items() if key not in own}
                make = SummaryWriter
            inspect.signature(make).bind_partial(**given)
    except Exception as error:  # noqa: BLE001  third-party code may raise anything
        return [f"{group}.{name}: {one_line(error)}"]
    return []


def check_search(jobs: Sequence[DictConfig]) -> list[str]:
    """A line for each reason why there can be no search."""
    lines = []
    if find_spec("optuna") is None:
        lines.append("hydra/sweeper=optuna needs pip install 'imdb-lightning[optuna]'")
    if any("pretrain" in cfg for cfg in jobs):
        lines.append("hydra/sweeper=optuna compares val accuracies, which no pretraining has")
    return lines


def check_pretrained(jobs: Sequence[DictConfig]) -> list[str]:
    """A line for each reason why a job cannot start from the pretraining that it names."""
    from .transfer.pretrained import Pretrained

    lines = [
        line
        for cfg in jobs
        if cfg.pretrained is not None
        for line in Pretrained(cfg.pretrained).check(cfg)
    ]
    if any("pretrain" in cfg for cfg in jobs) and find_spec("gensim") is None:
        lines.append("pretrain=vectors needs pip install 'imdb-lightning[pretrain]'")
    return list(dict.fromkeys(lines))


def check_teachers(jobs: Sequence[DictConfig]) -> list[str]:
    """A line for each reason why a job cannot learn from the teachers that it names."""
    with_teacher = [cfg for cfg in jobs if cfg.teacher is not None]
    if not with_teacher:
        return []
    from .transfer.teacher import Teachers  # late: it imports torch

    lines = [line for cfg in with_teacher for line in Teachers(cfg.teacher).check(cfg)]
    return list(dict.fromkeys(lines))


def check_reviews(jobs: Sequence[DictConfig]) -> str | None:
    """Why a job has no reviews; None if all of them have. Raises DataError if they are unusable."""
    places = {(cfg.data.path, cfg.data.use_unlabelled) for cfg in jobs if cfg.data.name == "imdb"}
    if not places:
        return None
    from .data import sources

    try:
        for path, unlabelled in places:
            sources.locate(path, unlabelled)
    except sources.DataNotFoundError as error:
        return str(error)
    return None


def needs_real_reviews(jobs: Sequence[DictConfig]) -> bool:
    """True if the synthetic corpus may not replace the reviews of one of the jobs."""
    return any(
        cfg.data.fallback is None
        or cfg.data.path is not None
        or cfg.pretrained is not None  # upstream runs were trained on reviews
        or cfg.teacher is not None
        for cfg in jobs
        if cfg.data.name == "imdb"
    )
