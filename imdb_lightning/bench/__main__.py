"""How fast it is, as ratios between things timed in turn; figures go to outputs/bench/ as JSON.

python -m imdb_lightning.bench layers            every implementation of every cell
python -m imdb_lightning.bench step              where a training step's time goes
python -m imdb_lightning.bench saving            what checkpoints within an epoch cost
python -m imdb_lightning.bench epoch             a training epoch, beside a plain PyTorch script
python -m imdb_lightning.bench scaling           longer reviews, larger batches, wider layers
python -m imdb_lightning.bench predict RUN       prediction beside training's evaluation loop
python -m imdb_lightning.bench gpu               all that is measured on a GPU, in eight minutes
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from omegaconf import DictConfig


NAMES = ("lstm", "gru", "gru_before", "rnn", "unknown")  # layers.SUBJECTS, without importing torch
GPU_STAGES = ("tests", "layers", "epochs", "repeats", "mixed", "grid")  # gpu.STAGES
WAYS = ("fused", "compile", "loop", "nn.LSTM", "plain script")  # epoch.WAYS


def main(arguments: list[str] | None = None) -> int:
    """Exits with 0, or with 2 where the command line is wrong."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    import torch

    from .. import process
    from ..train import quiet
    from .timing import machine

    quiet()
    process.prepare()
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    figures = {"bench": options.bench, "machine": facts, **options.run(options)}
    target = options.json or Path(
        f"outputs/bench/{datetime.now():%Y-%m-%d_%H-%M-%S}_{options.bench}.json"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1) + "\n")
    print(target)
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m imdb_lightning.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = "|".join(BENCHES)
    benches = top.add_subparsers(dest="bench", required=True, metavar=names)
    for name, run in BENCHES.items():
        bench = benches.add_parser(name, help=run.__doc__)
        bench.set_defaults(run=run)
        bench.add_argument("--threads", type=positive, help="of the processor; default: PyTorch's")
        bench.add_argument("--json", type=Path, help="where the figures go")
        if name in ("layers", "scaling"):
            cells = NAMES if name == "layers" else NAMES[:4]
            bench.add_argument("--cells", nargs="+", choices=cells, default=list(cells))
        if name == "gpu":
            bench.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
            bench.add_argument("--minutes", type=float, default=8.0, help="limit of the whole run")
            bench.add_argument("--output", type=Path, default=Path("outputs/bench/gpu"))
            bench.add_argument(
                "--read", type=Path, metavar="JSON", help="print kept figures instead"
            )
            bench.add_argument("--stages", nargs="+", choices=GPU_STAGES, default=list(GPU_STAGES))
        if name not in ("step", "saving"):
            bench.add_argument(
                "--rounds", type=positive, default=15 if name in ("layers", "scaling", "gpu") else 3
            )
        if name == "layers":
            for size, default in (("length", 200), ("batch", 64), ("input", 64), ("hidden", 64)):
                bench.add_argument(f"--{size}", type=positive, default=default)
            bench.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
            bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        if name == "predict":
            bench.add_argument("model", metavar="RUN", type=Path, help="a run directory")
        if name in ("step", "saving"):
            bench.add_argument("overrides", nargs="*", default=["experiment=report/custom_lstm"])
        if name == "epoch":
            bench.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    return top


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def layers(options: argparse.Namespace) -> dict[str, Any]:
    """every implementation of every cell, beside PyTorch's layer"""
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
    return layers(options.cells, *sizes, threads, options.rounds, not options.no_compile)


def step(options: argparse.Namespace) -> dict[str, Any]:
    """where the time of a training step goes; takes overrides as training does"""
    from .step import step

    return of_a_configuration(step, options.overrides)


def saving(options: argparse.Namespace) -> dict[str, Any]:
    """what checkpoints within an epoch cost; takes overrides as training does"""
    from .saving import saving

    return of_a_configuration(saving, options.overrides)


def of_a_configuration(
    bench: Callable[[DictConfig], dict[str, Any]], overrides: list[str]
) -> dict[str, Any]:
    from .. import config

    line = config.check([*overrides, *reviews()])
    try:
        if not line.mistakes:
            return bench(line.jobs[0])
    except ValueError as error:
        line.mistakes.append(str(error))
    print("\n".join(f"imdb_lightning: {mistake}" for mistake in line.mistakes), file=sys.stderr)
    sys.exit(2)


def epoch(options: argparse.Namespace) -> dict[str, Any]:
    """a training epoch, beside a plain PyTorch script"""
    import torch

    from .epoch import epoch

    overrides = reviews()
    dataset = "synthetic reviews" if overrides else "IMDB reviews"
    return epoch(options.ways, options.rounds, torch.get_num_threads(), overrides, dataset)


def scaling(options: argparse.Namespace) -> dict[str, Any]:
    """longer reviews, larger batches, wider layers: cost per token and peak memory"""
    import torch

    from .scaling import scaling

    return scaling(options.cells, torch.get_num_threads(), options.rounds)


def predict(options: argparse.Namespace) -> dict[str, Any]:
    """prediction of texts, beside the evaluation loop of training"""
    from ..data.sources import DataError
    from ..trained import LoadError
    from .predict import predict

    try:
        return predict(options.model, options.rounds)
    except (LoadError, DataError) as error:
        print(f"imdb_lightning: {error}", file=sys.stderr)
        sys.exit(2)


def gpu(options: argparse.Namespace) -> dict[str, Any]:
    """all that is measured on a GPU, in eight minutes: tests, layers, epochs, resume, the grid"""

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
        print("imdb_lightning: there is no GPU here; --device cpu needs none", file=sys.stderr)
        sys.exit(2)


def reviews() -> list[str]:
    """Overrides that put the synthetic corpus in the place of reviews that are not here."""
    import os

    from ..data import sources

    try:
        sources.find(os.environ.get("IMDB_DATA"))
    except sources.DataNotFound as error:
        print(f"{error}\nmeasured on the synthetic corpus instead", file=sys.stderr)
        return ["data.name=synthetic"]
    return []


BENCHES = {
    "layers": layers,
    "step": step,
    "saving": saving,
    "epoch": epoch,
    "scaling": scaling,
    "predict": predict,
    "gpu": gpu,
}


if __name__ == "__main__":
    sys.exit(main())
