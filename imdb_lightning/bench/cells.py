"""The cells of torchrecurrent: their layers, and the kernels that are generated from them here.

Dimensions: T steps, B reviews, I input size, H hidden size.
"""

from __future__ import annotations

import statistics
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from ..model.cells import ForeignCell
from ..model.fused import Fused
from ..runtime import process
from .timing import interleaved, own_process, table


PACKAGE = "torchrecurrent"


def cells(T: int, B: int, H: int, threads: int, rounds: int) -> dict[str, Any]:
    """Print a table and return its figures: milliseconds of forward and backward over a batch."""
    import torchrecurrent

    names = [name for name in dir(torchrecurrent) if name.endswith("Cell")]
    with own_process(process_for, threads) as one:
        figures = [one.submit(one_cell, name, T, B, H, rounds).result() for name in names]
    rows = [
        [
            row["cell"],
            row["by"],
            *(f"{row[key]:.1f}" if key in row else "" for key in ("here_ms", "there_ms")),
            f"{row['ratio']:.1f}x" if "ratio" in row else "",
        ]
        for row in figures
    ]
    print(table(["cell", "runs here by", "here ms", "there ms", "ratio"], rows))
    ratios = [row["ratio"] for row in figures if row["by"] == "C" and "ratio" in row]
    print(
        f"{sum(row['by'] == 'C' for row in figures)} of {len(figures)} generated; the median is "
        f"{statistics.median(ratios):.1f} times as fast as its layer, the least {min(ratios):.1f}"
    )
    return {PACKAGE: version(PACKAGE), "sizes": {"T": T, "B": B, "H": H}, "cells": figures}


def process_for(threads: int) -> None:
    process.configure(keep_freed_memory=True)
    torch.set_num_threads(threads)


def one_cell(name: str, T: int, B: int, H: int, rounds: int) -> dict[str, Any]:
    import torchrecurrent

    torch.manual_seed(0)
    found: dict[str, Any] = {"cell": name, "by": ""}
    x_TBH, grad_TBH = torch.randn(T, B, H), torch.randn(T, B, H)
    try:
        layer = Fused(ForeignCell(getattr(torchrecurrent, name)(H, H), H, H))
        layer(x_TBH[:2])
    except Exception as error:  # of one cell: the others are still worth their time
        lines = str(error).strip().splitlines() or [""]
        return found | {"by": f"not a cell here: {lines[0][:70]}"}
    found["by"] = layer.on_cpu.by
    runs = {"here": partial(run, layer, x_TBH, grad_TBH)}
    theirs = getattr(torchrecurrent, name.removesuffix("Cell"), None)
    if theirs is not None:
        runs["there"] = partial(run, theirs(H, H), x_TBH, grad_TBH)
    times = interleaved(runs, rounds, warm_up=1)
    found |= {f"{where}_ms": taken.median for where, taken in times.items()}
    if theirs is not None:
        found["ratio"] = found["there_ms"] / found["here_ms"]
    return found


def run(layer: nn.Module, x_TBH: Tensor, grad_TBH: Tensor) -> None:
    for parameter in layer.parameters():
        parameter.grad = None
    h_TBH, _ = layer(x_TBH.detach().requires_grad_())
    h_TBH.backward(grad_TBH)
