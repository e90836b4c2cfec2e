"""Training and prediction beside busy processes, and beside a second run of the same.

The conditions of one model follow each other in shuffled order, so that each ratio to "alone" is
one of measurements that are seconds apart.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..data.split import reviews_of_split
from ..inference import Predictor, build
from ..runtime import process
from ..runtime.contention import yield_to_others
from . import epoch
from .timing import own_process, table


VARIANTS = {
    **{name: [f"model={name}"] for name in ("rnn", "lstm", "gru")},
    **{
        f"custom_{name} {kind}": [f"model=custom_{name}", f"model.implementation={kind}"]
        for kind in ("fused", "loop")
        for name in ("rnn", "lstm", "gru")
    },
}
SIZE = 1_600  # reviews to train on and to predict
REVIEWS = ["data=synthetic", f"data.train_size={SIZE + 64}", "data.val_size=64"]
REVIEWS += [f"data.test_size={SIZE}", "trainer=cpu"]
BUSY = (1, 2, 4)
ALONE, SECOND, GRID = "alone", "a second run", "a grid of two"
SPINNING, SPINNING_BUSY = "alone, spinning", "2 busy, spinning"
SPIN = {"GOMP_SPINCOUNT": "300000"}  # the default of GNU's OpenMP
SETTLE = 1.5  # seconds, in which a process notices its neighbours, or that they have gone
GRID_EPOCHS = 3  # the first one warms up

worker: Worker  # of this process
stack_of_process = ExitStack()


class Worker(epoch.Worker):
    """One model that trains and predicts, in a separate process."""

    def __init__(self, overrides: Sequence[str], threads: int) -> None:
        super().__init__(overrides, threads)
        self.texts, _ = reviews_of_split(self.cfg.data, "test")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "tokenizer.json")
            file.write_text(self.data.tokenizer_json, "utf-8")
            config: Any = OmegaConf.to_container(self.cfg, resolve=True)
            network = build(config, self.model.state_dict(), file)
            self.predictor = Predictor(file, network, file, config, {})

    def measure(self, what: str) -> float:
        """Seconds of one epoch ("train") or of `SIZE` predictions ("predict")."""
        if what == "train":
            return self.epoch()
        started = time.perf_counter()
        self.predictor.predict(self.texts)
        return time.perf_counter() - started


def start(overrides: Sequence[str], threads: int) -> None:
    global worker
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    process.ignore_lightning_warnings()
    worker = Worker(overrides, threads)
    atexit.register(stack_of_process.close)
    stack_of_process.enter_context(yield_to_others())


def measure(what: str) -> float:
    return worker.measure(what)


def contention(variants: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    """Print and return the seconds of each variant alone, and the ratios to it beside others."""
    seconds = {}
    for variant in variants:
        found = one_variant(VARIANTS[variant], rounds, threads)
        seconds.update({f"{what} {variant}": times for what, times in found.items()})
        for what in found:
            print("  ".join(row(f"{what} {variant}", found[what])), flush=True)
    head = ["", "alone, s", *(f"{count} busy" for count in BUSY), SECOND, GRID]
    head += [SPINNING, SPINNING_BUSY]
    print(f"\n{SIZE:,} reviews; seconds alone, and times as long beside others;", end=" ")
    print(f"medians of {rounds}")
    print(table(head, [row(name, times) for name, times in seconds.items()]))
    return {"reviews": SIZE, "rounds": rounds, "spinning": SPIN, "seconds": seconds}


def row(name: str, times: Mapping[str, Sequence[float]]) -> list[str]:
    alone = statistics.median(times[ALONE])
    conditions = [*(f"{count} busy" for count in BUSY), SECOND, GRID, SPINNING, SPINNING_BUSY]
    ratios = [
        f"{statistics.median(times[condition]) / alone:.2f}x" if condition in times else ""
        for condition in conditions
    ]
    return [name, f"{alone:.2f}", *ratios]


def one_variant(
    overrides: Sequence[str], rounds: int, threads: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds by what is done ("train", "predict") and under which condition."""
    overrides = [*overrides, *REVIEWS]
    with ExitStack() as stack:
        first, second = (stack.enter_context(own_process(start, overrides, threads)) for _ in "12")
        for one in (first, second):  # processes start with what they are first asked for
            one.submit(measure, "train").result()
        with environment(SPIN):
            spinning = stack.enter_context(own_process(start, overrides, threads))
            spinning.submit(measure, "train").result()
        conditions: dict[str, Callable[[str], float]] = {
            ALONE: partial(alone, first),
            **{f"{count} busy": partial(beside_busy, first, count) for count in BUSY},
            SECOND: partial(both, first, second),
            SPINNING: partial(alone, spinning),
        }
        if "model.implementation=loop" not in overrides:  # a hundred times as long
            conditions[SPINNING_BUSY] = partial(beside_busy, spinning, 2)
        found: dict[str, dict[str, list[float]]] = {}
        order = random.Random(0)
        for what in ("train", "predict"):
            times = found[what] = {name: [] for name in conditions}
            for number in range(rounds + 1):
                for name, run in order.sample([*conditions.items()], len(conditions)):
                    taken = run(what)
                    if number > 0:
                        times[name].append(taken)
    found["train"][GRID] = in_a_grid(overrides)
    return found


def alone(one: ProcessPoolExecutor, what: str) -> float:
    time.sleep(SETTLE)
    return one.submit(measure, what).result()


def both(one: ProcessPoolExecutor, other: ProcessPoolExecutor, what: str) -> float:
    """Mean of two that run at the same time."""
    time.sleep(SETTLE)
    started = [pool.submit(measure, what) for pool in (one, other)]
    return statistics.fmean(future.result() for future in started)


def beside_busy(one: ProcessPoolExecutor, count: int, what: str) -> float:
    """Beside `count` processes that use a core each, as long as it takes."""
    command = [sys.executable, "-S", "-c", "import os\nwhile os.getppid() == {}: pass"]
    command[-1] = command[-1].format(os.getpid())
    with ExitStack() as stack:
        for _ in range(count):
            busy = subprocess.Popen(command)
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        return alone(one, what)


def in_a_grid(overrides: Sequence[str]) -> list[float]:
    """Seconds of the training epochs of two runs at once, under hydra/launcher=local_pool."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "imdb_lightning", "-m", *overrides, "seed=0,1"]
        command += ["hydra/launcher=local_pool", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=grid"]
        command += [f"trainer.max_epochs={GRID_EPOCHS}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
        runs = [
            json.loads(file.read_text("utf-8")) for file in Path(folder).glob("grid/*/metrics.json")
        ]
    return [epoch["seconds"] for run in runs for epoch in run["epochs"][1:]]


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These environment variables, for the processes that are started within."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
