"""Runs in their own processes, which kill themselves at a chosen moment.

The processes come from multiprocessing's fork server, which has imported PyTorch and Lightning.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from imdb_lightning.runs.run import Run
from tests.conftest import SERVER, environment, run_module


SMALL = (
    "data=synthetic data.train_size=80 data.val_size=16 data.test_size=16 data.max_length=60 "
    "data.batch_size=8 data.cache_dir=null model.embedding_size=8 model.hidden_size=8 "
    "model.dropout=0.5 trainer=cpu trainer.max_epochs=3 checkpoint.every_steps=3"
).split()  # ten steps an epoch
CLOCK = {
    "seconds",
    "cpu_seconds",
    "peak_memory",
    "train_seconds",
    "epoch_seconds",
    "since_validation",
    "time",
    "train/seconds",
    "tokens_per_second",
    "git",
}


class Moment(NamedTuple):
    """SIGKILL, or another signal, before or after the `call`-th call of a function or method.

    With `named` only calls count whose first argument contains it, such as a file's name.
    """

    where: str  # "module:name", such as "imdb_lightning.runs.storage:atomic_write"
    call: int = 1
    after: bool = False
    named: str = ""
    number: int = signal.SIGKILL

    def arm(self) -> None:
        module, _, name = self.where.partition(":")
        owner_name, _, attribute = name.rpartition(".")
        owner = pkgutil.resolve_name(f"{module}:{owner_name}" if owner_name else module)
        original: Callable[..., Any] = getattr(owner, attribute)
        calls = 0

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            counts = not self.named or self.named in str(arguments[0])
            calls += counts
            last = counts and calls == self.call
            if last and not self.after:
                os.kill(os.getpid(), self.number)
            value = original(*arguments, **options)
            if last:
                os.kill(os.getpid(), self.number)
            return value

        setattr(owner, attribute, counted)


STEP = "imdb_lightning.model.classifier:Classifier.training_step"
VECTORS = "imdb_lightning.pretrain.vectors:skip_gram"
VALIDATION = "imdb_lightning.model.classifier:Classifier.validation_step"
TEST = "imdb_lightning.model.classifier:Classifier.test_step"


def _command(
    folder: Path, arguments: tuple[str, ...], variables: dict[str, str], moment: Moment | None
) -> None:
    if moment is not None:
        moment.arm()
    output = folder / "output.txt"
    run_module(folder, "imdb_lightning", arguments, [Path(os.devnull), output, output], variables)


def started(folder: Path, *arguments: str, moment: Moment | None = None) -> ForkServerProcess:
    folder.mkdir(parents=True, exist_ok=True)
    process = SERVER.Process(target=_command, args=(folder, arguments, environment(folder), moment))
    process.start()
    return process


def command(folder: Path, *arguments: str, moment: Moment | None = None) -> int | None:
    """Exit code of `python -m imdb_lightning ARGUMENTS`; negative: the signal that ended it."""
    process = started(folder, *arguments, moment=moment)
    process.join(120)
    return process.exitcode


def run(folder: Path, *arguments: str, moment: Moment | None = None) -> Path:
    """A run in folder/run, new or resumed, to its end or its kill."""
    code = command(folder, *arguments, "hydra.run.dir=run", "resume=auto", moment=moment)
    expected = 0 if moment is None else -signal.SIGKILL
    assert code == expected, (code, output_of(folder))
    return folder / "run"


def killed_after(folder: Path, seconds: float, *arguments: str) -> bool:
    """The same, killed from outside `seconds` after it has started; True if it was running."""
    process = started(folder, *arguments, "hydra.run.dir=run", "resume=auto")
    while not (folder / "run" / "metrics.json").exists() and process.is_alive():
        time.sleep(0.002)
    process.join(seconds)
    process.kill()
    process.join(30)
    return process.exitcode != 0


def output_of(folder: Path) -> str:
    return (folder / "output.txt").read_text("utf-8", "replace")


def differences(one: Path, other: Path) -> list[str]:
    """Where two run directories differ but for times; every bit of the rest counts."""
    found = []
    pretraining = "pretrain" in Run(one).metrics
    for name in ["vectors.ckpt"] if pretraining else ["last.ckpt", "best.ckpt"]:
        files = [path / "checkpoints" / name for path in (one, other)]
        contents = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
        found += _differences(contents[0], contents[1], name)
    found += _differences(Run(one).metrics, Run(other).metrics, "metrics.json")
    if not pretraining:
        tables = [path / "predictions.parquet" for path in (one, other)]
        first, second = map(pyarrow.parquet.read_table, tables)
        found += [] if first.equals(second) else ["predictions.parquet"]
    for name in ["tokenizer.json"] if pretraining else ["curves.png", "tokenizer.json"]:
        found += [] if (one / name).read_bytes() == (other / name).read_bytes() else [name]
    found += _differences(scalars(one), scalars(other), "TensorBoard")
    found += [str(file) for file in other.rglob(".*.tmp")]
    return found


def _differences(a: Any, b: Any, where: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in a if key not in CLOCK]
        if set(keys) != {key for key in b if key not in CLOCK}:
            return [f"{where}: keys {sorted(map(str, a))} and {sorted(map(str, b))}"]
        return [line for key in keys for line in _differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        parts = enumerate(zip(a, b, strict=True))
        return [line for n, (x, y) in parts for line in _differences(x, y, f"{where}.{n}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
    else:
        same = type(a) is type(b) and a == b
    return [] if same else [f"{where}: {str(a)[:60]} and {str(b)[:60]}"]


def scalars(run: Path) -> list[tuple[str, int, float]]:
    """All scalars of the event files, duplicates included, without times."""
    found = []
    for file in sorted(run.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found.append((value.tag, event.step, float(make_ndarray(value.tensor))))
    return [scalar for scalar in found if scalar[0] != "train/seconds"]
