"""Training epochs of the report's LSTM: this project's variants beside a plain PyTorch script.

Each variant has a process of its own, which waits while another one trains: no setting of one
affects another.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import lightning
import torch

from ..config.overrides import check_command_line
from ..data.datamodule import ReviewDataModule
from ..model.classifier import Classifier
from ..runtime import process
from .plain import PlainScript
from .step import quick_trainer
from .timing import EpochTimer, own_process, table


VARIANTS = {
    "fused": ["experiment=report/custom_lstm"],
    "loop": ["experiment=report/custom_lstm", "model.implementation=loop"],
    "nn.LSTM": ["experiment=report/lstm"],
    "plain script": ["experiment=report/custom_lstm"],  # only its sizes and reviews
}

worker: Worker  # of this process


class Worker:
    """One variant of training, in a process of its own."""

    def __init__(self, overrides: Sequence[str], threads: int, plain: bool = False) -> None:
        (cfg,) = check_command_line(overrides).jobs
        self.cfg = cfg
        if not plain:
            process.configure()
        torch.set_num_threads(threads)
        self.data = ReviewDataModule(cfg.data, cfg.seed)
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
        timer = EpochTimer()
        quick_trainer(timer).fit(self.model, datamodule=self.data)
        return timer.seconds


def start(variant: str, threads: int, overrides: list[str]) -> None:
    global worker
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    process.ignore_lightning_warnings()
    worker = Worker([*VARIANTS[variant], *overrides], threads, plain=variant == "plain script")


def one_epoch() -> tuple[float, int]:
    return worker.epoch(), worker.tokens


def epoch(
    variants: list[str], rounds: int, threads: int, overrides: list[str], dataset: str
) -> dict[str, Any]:
    """Print and return the seconds of a training epoch of each variant, after a warm-up epoch.

    Tokens per second count the words of the reviews, not their padding.
    """
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    tokens = 0
    with ExitStack() as stack:
        processes = {
            variant: stack.enter_context(own_process(start, variant, threads, overrides))
            for variant in variants
        }
        for number in range(rounds + 1):
            for variant, one in processes.items():
                taken, tokens = one.submit(one_epoch).result()
                name = f"round {number}" if number > 0 else "warm-up"
                print(f"{name}: {variant}: {taken:.1f} s", flush=True)
                if number > 0:
                    seconds[variant].append(taken)
    medians = {variant: statistics.median(taken) for variant, taken in seconds.items()}
    rows = [
        [
            variant,
            f"{median:.2f} ({min(seconds[variant]):.2f} to {max(seconds[variant]):.2f})",
            f"{tokens / median:,.0f}",
            f"{median / medians[variants[0]]:.2f}x",
        ]
        for variant, median in medians.items()
    ]
    print(f"\none training epoch of the report's LSTM, {dataset}; medians of {rounds} (range)")
    print(table(["variant", "seconds", "tokens/s", f"{variants[0]} is faster by"], rows))
    return {
        "dataset": dataset,
        "rounds": rounds,
        "seconds": seconds,
        "median_seconds": medians,
        "tokens": tokens,
    }
