"""Benchmarks: ratios between interleaved timings; figures are written to outputs/bench/ as JSON.

python -m imdb_lightning.bench layers            every implementation of every cell
python -m imdb_lightning.bench cells             the cells of torchrecurrent, here and there
python -m imdb_lightning.bench step              the time of a training step, by parts
python -m imdb_lightning.bench checkpointing     the cost of checkpoints within an epoch
python -m imdb_lightning.bench epoch             a training epoch, against a plain PyTorch script
python -m imdb_lightning.bench scaling           longer reviews, larger batches, wider layers
python -m imdb_lightning.bench contention        beside busy processes and a second run
python -m imdb_lightning.bench processes         one run on one process and on two (DDP)
python -m imdb_lightning.bench predict RUN       prediction, against training's evaluation loop
python -m imdb_lightning.bench gpu               everything that is measured on a GPU
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli


if TYPE_CHECKING:
    from omegaconf import DictConfig


NAMES = ("lstm", "gru", "gru_before", "rnn", "unknown")  # layers.CASES, without importing torch
GPU_STAGES = ("layers", "epochs", "mixed", "repeats", "tests", "grid")  # gpu.STAGES
VARIANTS = ("fused", "loop", "nn.LSTM", "plain script")  # epoch.VARIANTS
NEIGHBOURS = [  # contention.VARIANTS
    *("rnn", "lstm", "gru"),
    *(f"custom_{name} {kind}" for kind in ("fused", "loop") for name in ("rnn", "lstm", "gru")),
]


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, or with 2 if the command line is wrong."""
    options = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    import torch

    from ..runtime import process
    from .timing import environment

    process.ignore_lightning_warnings()
    process.configure()
    if options.threads:
        torch.set_num_threads(options.threads)
    machine = environment()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    figures = {"bench": options.bench, "machine": machine, **options.run(options)}
    target = options.json or Path(
        f"outputs/bench/{datetime.now():%Y-%m-%d_%H-%M-%S}_{options.bench}.json"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1) + "\n")
    print(target)


def parser() -> cli.Parser:
    top = cli.Parser("bench", __doc__)
    names = "|".join(BENCHES)
    benches = top.add_subparsers(
        dest="bench", required=True, metavar=names, parser_class=argparse.ArgumentParser
    )
    for name, run in BENCHES.items():
        bench = benches.add_parser(name, help=run.__doc__)
        bench.set_defaults(run=run)
        bench.add_argument("--threads", type=cli.positive, help="default: PyTorch's")
        bench.add_argument("--json", type=Path, help="where to write the figures")
        if name in ("layers", "scaling"):
            cells = NAMES if name == "layers" else NAMES[:4]
            bench.add_argument("--cells", nargs="+", choices=cells, default=list(cells))
        if name == "gpu":
            bench.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
            bench.add_argument("--minutes", type=float, default=8.0, help="limit of all stages")
            bench.add_argument("--output", type=Path, default=Path("outputs/bench/gpu"))
            bench.add_argument(
                "--read", type=Path, metavar="JSON", help="print these figures instead"
            )
            bench.add_argument("--stages", nargs="+", choices=GPU_STAGES, default=list(GPU_STAGES))
        if name not in ("step", "checkpointing"):
            rounds = 15 if name in ("layers", "scaling", "gpu") else 3
            bench.add_argument("--rounds", type=cli.positive, default=rounds)
        if name == "layers":
            for size, default in (("length", 200), ("batch", 64), ("input", 64), ("hidden", 64)):
                bench.add_argument(f"--{size}", type=cli.positive, default=default)
            bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        if name == "cells":
            for size, default in (("length", 200), ("batch", 64), ("hidden", 64)):
                bench.add_argument(f"--{size}", type=cli.positive, default=default)
        if name == "predict":
            bench.add_argument("model", metavar="RUN", type=Path, help="a run directory")
        if name in ("step", "checkpointing", "processes"):
            bench.add_argument("overrides", nargs="*", default=["experiment=report/custom_lstm"])
        if name == "epoch":
            bench.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
        if name == "contention":
            bench.add_argument("--variants", nargs="+", choices=NEIGHBOURS, default=NEIGHBOURS)
    return top


def layers(options: argparse.Namespace) -> dict[str, Any]:
    """every implementation of every cell, against PyTorch's layer"""
    import torch

    from .layers import layers

    if options.device == "cuda":
        from .gpu_layers import Size, one_size, print_table

        needs_a_gpu()
        size = Size(options.hidden, options.batch, options.length)
        rows = [
            row
            for exact in (False, True)
            for row in one_size(options.cells, size, "cuda", options.rounds, exact, graphs=True)
        ]
        print_table(rows)
        return {"layers": rows}
    sizes = options.length, options.batch, options.input, options.hidden
    threads = torch.get_num_threads()
    return layers(options.cells, *sizes, threads, options.rounds)


def cells(options: argparse.Namespace) -> dict[str, Any]:
    """the cells of torchrecurrent: their layers, and the kernels generated from them here"""
    from importlib.util import find_spec

    import torch

    if find_spec("torchrecurrent") is None:
        cli.fail("it needs pip install 'imdb-lightning[cells]'", command="bench")
    from .cells import cells

    sizes = options.length, options.batch, options.hidden
    return cells(*sizes, torch.get_num_threads(), options.rounds)


def step(options: argparse.Namespace) -> dict[str, Any]:
    """the time of a training step, by parts; takes overrides as training does"""
    from .step import step

    return run_on_config(step, options.overrides)


def checkpointing(options: argparse.Namespace) -> dict[str, Any]:
    """the cost of checkpoints within an epoch; takes overrides as training does"""
    from .checkpointing import checkpointing

    return run_on_config(checkpointing, options.overrides)


def run_on_config(
    bench: Callable[[DictConfig], dict[str, Any]], overrides: list[str]
) -> dict[str, Any]:
    from ..config.overrides import check_command_line

    line = check_command_line([*overrides, *reviews()])
    try:
        if not line.errors:
            return bench(line.jobs[0])
    except ValueError as error:
        line.errors.append(str(error))
    cli.fail(*line.errors, command="bench")


def epoch(options: argparse.Namespace) -> dict[str, Any]:
    """a training epoch, against a plain PyTorch script"""
    import torch

    from .epoch import epoch

    overrides = reviews()
    dataset = "synthetic reviews" if overrides else "IMDB reviews"
    return epoch(options.variants, options.rounds, torch.get_num_threads(), overrides, dataset)


def scaling(options: argparse.Namespace) -> dict[str, Any]:
    """longer reviews, larger batches, wider layers: cost per token and peak memory"""
    import torch

    from .scaling import scaling

    return scaling(options.cells, torch.get_num_threads(), options.rounds)


def processes(options: argparse.Namespace) -> dict[str, Any]:
    """one run on one process and on two, and a model for more; takes overrides as training does"""
    from .processes import processes

    return processes(options.overrides, options.rounds)


def contention(options: argparse.Namespace) -> dict[str, Any]:
    """training and prediction beside busy processes, a second run, and in a grid"""
    import torch

    from .contention import contention

    return contention(options.variants, options.rounds, torch.get_num_threads())


def predict(options: argparse.Namespace) -> dict[str, Any]:
    """prediction of texts, against the evaluation loop of training"""
    from ..data.sources import DataError
    from ..inference import LoadError
    from .predict import predict

    try:
        return predict(options.model, options.rounds)
    except (LoadError, DataError) as error:
        cli.fail(str(error), command="bench")


def gpu(options: argparse.Namespace) -> dict[str, Any]:
    """everything that is measured on a GPU, in eight minutes: layers, epochs, tests, the grid"""
    from .gpu import gpu
    from .gpu_layers import print_table

    if options.read:
        print_table(json.loads(options.read.read_text("utf-8"))["layers"])
        sys.exit(0)
    if options.device == "cuda":
        needs_a_gpu()
    folder = options.output.absolute()
    return gpu(options.device, options.minutes, folder, options.rounds, options.stages)


def needs_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        cli.fail("this machine has no GPU; --device cpu needs none", command="bench")


def reviews() -> list[str]:
    """Overrides for the synthetic corpus, if there are no reviews."""
    import os

    from ..data import sources

    try:
        sources.locate(os.environ.get("IMDB_DATA"))
    except sources.DataNotFoundError as error:
        cli.report(str(error), "measuring on the synthetic corpus instead", command="bench")
        return ["data.name=synthetic"]
    return []


BENCHES = {
    "layers": layers,
    "cells": cells,
    "step": step,
    "checkpointing": checkpointing,
    "epoch": epoch,
    "scaling": scaling,
    "contention": contention,
    "processes": processes,
    "predict": predict,
    "gpu": gpu,
}


if __name__ == "__main__":
    main()
