"""One recurrent layer on a GPU: every way of every cell beside cuDNN's layers, in one run.

Dimensions: T steps, B reviews, I input size, H hidden size.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..model.backbones import Unrolled
from ..model.cells import Cell, GRUCell, LSTMCell, RNNCell
from ..model.fused import Fused, unrolled
from ..model.kernels import precision, vendor
from ..model.kernels.cuda import CudaSequence
from .layers import MinimalCell
from .timing import Times, interleaved, on_cpu, on_gpu, on_gpu_alone, table


CELLS: dict[str, Callable[[int, int], Cell]] = {
    "rnn": RNNCell,
    "lstm": LSTMCell,
    "gru": partial(GRUCell, reset="after"),
    "gru_before": partial(GRUCell, reset="before"),
    "unknown": MinimalCell,
}
LAYERS = {"nn.RNN": nn.RNN, "nn.LSTM": nn.LSTM, "nn.GRU": nn.GRU}
INPUTS = 4  # batches in turn, so that none is in a cache


BOTH = ("both_ms", "both_gpu_ms")  # forward and backward, as called, and without the processor


class Size(NamedTuple):
    H: int
    B: int
    T: int


class OneKernel(nn.Module):
    """A cell on a GPU, by one kernel alone."""

    def __init__(self, cell: Cell, kernel: str) -> None:
        super().__init__()
        self.cell = cell
        self.sequence = CudaSequence(cell, unrolled, (kernel,))

    def forward(self, x_TBI: Tensor) -> tuple[Tensor, Any]:
        state = self.cell.initial_state(x_TBI.shape[1])
        return self.sequence(x_TBI, state, None)


def cell_of(name: str) -> Callable[[int, int], Cell]:
    """A cell of ours by its name here, or any by the name of its class."""
    return CELLS[name] if name in CELLS else resolve_name(name)


def layers_to_time(cells: Iterable[str], H: int, device: str, graphs: bool) -> dict[str, nn.Module]:
    """PyTorch's layers, and the cells by the kernel that is chosen and by each possible one."""
    found: dict[str, nn.Module] = {name: layer(H, H) for name, layer in LAYERS.items()}
    for name in cells:
        cell = cell_of(name)(H, H)
        label = name.rpartition(".")[2]
        found[label] = Fused(cell)
        if device == "cuda":
            if vendor.mode_of(cell) is not None:
                found[f"{label} by cuDNN"] = OneKernel(cell, "cuDNN")
                found[f"{label} by Triton"] = OneKernel(cell, "Triton")
            if graphs:
                found[f"{label} by CUDA graphs"] = OneKernel(cell, "CUDA graphs")
    return {name: layer.to(device) for name, layer in found.items()}


def one_size(
    cells: Iterable[str], size: Size, device: str, rounds: int, exact: bool, graphs: bool
) -> list[dict[str, Any]]:
    """Figures of each layer: milliseconds and relative errors against float64."""
    if device == "cuda":
        precision.rnn.fp32_precision = "ieee" if exact else "tf32"
    torch.manual_seed(0)
    H, B, T = size
    layers = layers_to_time(cells, H, device, graphs)
    xs = [torch.randn(T, B, H, device=device) for _ in range(INPUTS)]
    grads = [torch.randn(T, B, H, device=device) for _ in range(INPUTS)]
    forward = {name: rotating(run_forward, layer, xs, grads) for name, layer in layers.items()}
    both = {name: rotating(run_both, layer, xs, grads) for name, layer in layers.items()}
    errors = {name: relative_errors(layer, xs[0], grads[0]) for name, layer in layers.items()}
    timed = on_gpu if device == "cuda" else on_cpu
    times_forward = interleaved(forward, rounds, timed=timed)
    times_both = interleaved(both, rounds, timed=timed)
    alone = interleaved(both, rounds, timed=on_gpu_alone) if device == "cuda" else times_both
    return [
        {
            "layer": name,
            "by": getattr(getattr(layer, "on_gpu", None), "by", ""),
            **size._asdict(),
            "precision": "float32" if exact else "TF32",
            "forward_ms": times_forward[name]._asdict(),
            "both_ms": times_both[name]._asdict(),
            "both_gpu_ms": alone[name]._asdict(),
            "errors": errors[name],
        }
        for name, layer in layers.items()
    ]


def rotating(
    run: Callable[..., object], layer: nn.Module, xs: list[Tensor], grads: list[Tensor]
) -> Callable[[], object]:
    turn = iter(range(10**9))

    def run_next() -> None:
        i = next(turn) % len(xs)
        run(layer, xs[i], grads[i])

    return run_next


def run_forward(layer: nn.Module, x_TBI: Tensor, grad_TBH: Tensor) -> None:
    with torch.no_grad():
        layer(x_TBI)


def run_both(layer: nn.Module, x_TBI: Tensor, grad_TBH: Tensor) -> tuple[Tensor, Tensor]:
    for parameter in layer.parameters():
        parameter.grad = None
    x_TBI = x_TBI.detach().requires_grad_()
    h_TBH, _ = layer(x_TBI)
    h_TBH.backward(grad_TBH)
    assert x_TBI.grad is not None
    return h_TBH.detach(), x_TBI.grad


def relative_errors(layer: nn.Module, x_TBI: Tensor, grad_TBH: Tensor) -> dict[str, float]:
    """|result - exact| / |exact|, of outputs, gradient of x, and the worst of the parameters'."""
    x_TBI, grad_TBH = x_TBI[:, :16], grad_TBH[:, :16]
    h_TBH, grad_x = run_both(layer, x_TBI, grad_TBH)
    grads = {name: p.grad for name, p in layer.named_parameters()}
    cell = getattr(layer, "cell", None)
    twin = copy.deepcopy(layer if cell is None else Unrolled(cell)).double()
    exact_h, exact_x = run_both(twin, x_TBI.double(), grad_TBH.double())
    exact = {name: p.grad for name, p in twin.named_parameters()}
    return {
        "output": relative(h_TBH, exact_h),
        "grad_x": relative(grad_x, exact_x),
        "grad_parameters": max(relative(grads[name], exact[name]) for name in exact),
    }


def relative(value: Tensor | None, exact: Tensor | None) -> float:
    assert value is not None and exact is not None
    return ((value.double() - exact).norm() / exact.norm()).item()


def prepare(task: tuple[str, Size, bool]) -> float:
    """Compile what a cell needs at a size into Triton's cache; seconds."""
    name, size, exact = task
    started = time.perf_counter()
    precision.rnn.fp32_precision = "ieee" if exact else "tf32"
    layer = OneKernel(cell_of(name)(size.H, size.H), "Triton").cuda()
    x_TBI = torch.randn(2, size.B, size.H, device="cuda")
    run_both(layer, x_TBI, torch.ones_like(x_TBI))
    run_forward(layer, x_TBI, x_TBI)
    return time.perf_counter() - started


def compile_all(tasks: list[tuple[str, Size, bool]], workers: int) -> list[float]:
    """The kernels of all tasks, in processes side by side; seconds of each."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(prepare, tasks))


def print_table(rows: list[dict[str, Any]]) -> None:
    """Each cell's times over those of the same cell of cuDNN, or else of cuDNN's LSTM."""
    vendors = {"rnn": "nn.RNN", "lstm": "nn.LSTM", "gru": "nn.GRU"}
    lines = []
    for row in rows:
        beside = [r for r in rows if all(r[k] == row[k] for k in ("H", "B", "precision"))]
        rival = vendors.get(row["layer"].split(" ")[0], "nn.LSTM")
        (other,) = [r for r in beside if r["layer"] == rival]
        lines.append(
            [
                row["layer"] + (f" ({row['by']})" if row["by"] else ""),
                *(str(row[key]) for key in ("H", "B", "precision")),
                *(f"{Times(**row[key]).median:.3f}" for key in ("forward_ms", *BOTH)),
                " / ".join(f"{row[k]['median'] / other[k]['median']:.2f}" for k in BOTH),
                rival,
                *(f"{value:.0e}" for value in row["errors"].values()),
            ]
        )
    head = "layer H B precision forward both GPU-alone ratios of output grad_x grad_params".split()
    print(table(head, lines), flush=True)
