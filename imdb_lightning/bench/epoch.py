"""Whole training epochs of the report's LSTM: this project's ways beside a plain PyTorch script.

Each way has a process of its own, which waits while another one trains: they run in turn, and no
setting of one reaches another.
"""

from __future__ import annotations

import logging
import statistics
import time
from contextlib import ExitStack
from typing import Any

import lightning
import torch

from .. import config, process
from ..data.module import ReviewData
from ..model.classifier import Classifier
from ..train import quiet
from .plain import PlainScript
from .step import quick_trainer
from .timing import own_process, table


WAYS = {
    "fused": ["experiment=report/custom_lstm"],
    "compile": ["experiment=report/custom_lstm", "model.implementation=compile"],
    "loop": ["experiment=report/custom_lstm", "model.implementation=loop"],
    "nn.LSTM": ["experiment=report/lstm"],
    "plain script": ["experiment=report/custom_lstm"],  # its sizes and reviews alone
}

worker: Worker  # of this process


class Stopwatch(lightning.Callback):
    def on_train_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.started


class Worker:
    """One way of training, in a process of its own."""

    def __init__(self, way: str, threads: int, overrides: list[str]) -> None:
        (cfg,) = config.check([*WAYS[way], *overrides]).jobs
        plain = way == "plain script"
        if not plain:
            process.prepare()
        torch.set_num_threads(threads)
        self.data = ReviewData(cfg.data, cfg.seed)
        self.data.setup()
        train = self.data.splits["train"]
        self.tokens = int(train.lengths.sum())
        lightning.seed_everything(cfg.seed, verbose=False)
        if plain:
            sizes = cfg.data.vocab_size, cfg.data.max_length, cfg.data.batch_size
            self.plain = PlainScript(train, *sizes, cfg.model.embedding_size, cfg.model.hidden_size)
            self.epoch = self.plain.epoch
        else:
            self.model = Classifier.from_config(cfg.model, cfg.optim)
            self.epoch = self.lightning_epoch

    def lightning_epoch(self) -> float:
        """Train for one epoch; seconds."""
        watch = Stopwatch()
        quick_trainer(watch).fit(self.model, datamodule=self.data)
        return watch.seconds


def start(way: str, threads: int, overrides: list[str]) -> None:
    global worker
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    quiet()
    worker = Worker(way, threads, overrides)


def one_epoch() -> tuple[float, int]:
    return worker.epoch(), worker.tokens


def epoch(
    ways: list[str], rounds: int, threads: int, overrides: list[str], dataset: str
) -> dict[str, Any]:
    """Print and return the seconds of a training epoch of each way, after a first one unrecorded.

    Tokens per second count the words of the reviews, not their padding.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    tokens = 0
    with ExitStack() as stack:
        processes = {
            way: stack.enter_context(own_process(start, way, threads, overrides)) for way in ways
        }
        for number in range(rounds + 1):
            for way, one in processes.items():
                taken, tokens = one.submit(one_epoch).result()
                name = f"round {number}" if number > 0 else "warm-up"
                print(f"{name}: {way}: {taken:.1f} s", flush=True)
                if number > 0:
                    seconds[way].append(taken)
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    rows = [
        [
            way,
            f"{median:.2f} ({min(seconds[way]):.2f} to {max(seconds[way]):.2f})",
            f"{tokens / median:,.0f}",
            f"{median / medians[ways[0]]:.2f}x",
        ]
        for way, median in medians.items()
    ]
    print(f"\none training epoch of the report's LSTM, {dataset}; medians of {rounds} (range)")
    print(table(["way", "seconds", "tokens/s", f"{ways[0]} is faster by"], rows))
    return {
        "dataset": dataset,
        "rounds": rounds,
        "seconds": seconds,
        "median_seconds": medians,
        "tokens": tokens,
    }
