"""One recurrent layer over a batch: every implementation of every cell, against PyTorch's layer.

Dimensions: T steps, B reviews, I input size, H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.rnn import pack_padded_sequence

from ..model.backbones import Unrolled
from ..model.cells import Cell, GRUCell, LSTMCell, RNNCell, State
from ..model.fused import Fused
from ..runtime import process
from .timing import interleaved, own_process, product_of_matrices, table


class MinimalCell(Cell):
    """A cell that the package does not know, as a user would write it."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=2)

    def forward(self, x_BI: Tensor, state: State) -> State:
        (h_BH,) = state
        x_z, x_n = linear(x_BI, self.weight_ih, self.bias_ih).chunk(2, dim=1)
        h_z, h_n = linear(h_BH, self.weight_hh, self.bias_hh).chunk(2, dim=1)
        z_BH = torch.sigmoid(x_z + h_z)
        return (z_BH * h_BH + (1 - z_BH) * torch.tanh(x_n + h_n),)


class Case(NamedTuple):
    """A cell, and PyTorch's layer with the same equations if there is one."""

    cell: Callable[[int, int], Cell]
    torch_layer: Any
    gates: int


CASES = {
    "lstm": Case(LSTMCell, nn.LSTM, 4),
    "gru": Case(lambda i, h: GRUCell(i, h, reset="after"), nn.GRU, 3),
    "gru_before": Case(lambda i, h: GRUCell(i, h, reset="before"), None, 3),
    "rnn": Case(RNNCell, nn.RNN, 1),
    "unknown": Case(MinimalCell, None, 2),
}


MEMORY = ("default", "kept")


def layers(
    names: list[str], T: int, B: int, I: int, H: int, threads: int, rounds: int
) -> dict[str, Any]:
    """Print a table and return its figures: milliseconds a batch.

    Twice, each time in its own process: with PyTorch's default memory, and with freed memory
    kept, as this project's training does (process.tune_malloc).
    """
    found = {}
    for memory in MEMORY:
        with own_process(process_for, memory, threads) as one:
            table = one.submit(one_table, names, T, B, I, H, rounds, memory)
            found[memory] = table.result()
    return {"sizes": {"T": T, "B": B, "I": I, "H": H}, "rounds": rounds, "memory": found}


def process_for(memory: str, threads: int) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    process.configure(keep_freed_memory=memory == "kept")
    torch.set_num_threads(threads)


def one_table(
    names: list[str], T: int, B: int, I: int, H: int, rounds: int, memory: str
) -> dict[str, Any]:
    x_TBI, grad_TBH = torch.randn(T, B, I), torch.randn(T, B, H)
    forward: dict[str, Callable[[], object]] = {}
    both: dict[str, Callable[[], object]] = {}
    product, product_flops = product_of_matrices()
    both["matrix product"] = product
    for name in names:
        for kind, layer in variants(name, I, H).items():
            label = f"{name} {kind}"
            forward[label] = partial(run_forward, layer, x_TBI)
            both[label] = partial(run_both, layer, x_TBI, grad_TBH)
    packed = {
        f"{n} packed": packed_run(n, I, H, x_TBI, grad_TBH) for n in names if CASES[n].torch_layer
    }
    times_forward, times_both = interleaved(forward, rounds), interleaved(both, rounds)
    times_packed = interleaved(packed, rounds=3, warm_up=1)

    peak = product_flops / times_both["matrix product"].median * 1e-6
    rows, figures = [], []
    for name in names:
        flops = 6.0 * T * B * CASES[name].gates * H * (I + H)
        for kind in variants(name, I, H):
            label = f"{name} {kind}"
            median = times_both[label].median
            rate = flops / median * 1e-6
            against = {
                other: times_both[f"{name} {other}"].median / median
                for other in ("torch", "loop")
                if f"{name} {other}" in times_both
            }
            figures.append(
                {
                    "cell": name,
                    "implementation": kind,
                    "forward_ms": times_forward[label]._asdict(),
                    "both_ms": times_both[label]._asdict(),
                    "gflops": rate,
                    "of_peak": rate / peak,
                    "times_as_fast_as": against,
                }
            )
            rows.append(
                [
                    label,
                    str(times_forward[label]),
                    str(times_both[label]),
                    *(f"{against[o]:.2f}x" if o in against else "" for o in ("torch", "loop")),
                    f"{rate:.0f}",
                    f"{rate / peak:.0%}",
                ]
            )
    head = [
        "layer",
        "forward ms",
        "forward+backward ms",
        "vs torch",
        "vs loop",
        "GFLOP/s",
        "of peak",
    ]
    print(
        f"\n{T} steps, {B} reviews, input {I}, hidden {H}, memory {memory}; "
        f"medians of {rounds} rounds (range)"
    )
    print(table(head, rows))
    print(f"peak: {peak:.0f} GFLOP/s, a product of matrices 2048 x 2048, timed in the same rounds")
    for label, times in times_packed.items():
        print(f"for comparison, {label.replace('packed', 'of torch, packed')}: {times} ms")
    return {
        "peak_gflops": peak,
        "layers": figures,
        "packed_both_ms": {label: times._asdict() for label, times in times_packed.items()},
    }


def variants(name: str, I: int, H: int) -> dict[str, nn.Module]:
    """Every implementation of a cell, and PyTorch's layer."""
    case = CASES[name]
    cell = case.cell(I, H)
    found: dict[str, nn.Module] = {}
    if case.torch_layer:
        found["torch"] = case.torch_layer(I, H)
    found |= {"fused C": Fused(cell), "fused PyTorch": Fused(cell, native=False)}
    return found | {"loop": Unrolled(cell)}


def run_forward(layer: nn.Module, x_TBI: Tensor) -> None:
    with torch.no_grad():
        layer(x_TBI)


def run_both(layer: nn.Module, x_TBI: Tensor, grad_TBH: Tensor) -> None:
    for parameter in layer.parameters():
        parameter.grad = None
    h_TBH, _ = layer(x_TBI.detach().requires_grad_())
    h_TBH.backward(grad_TBH)


def packed_run(name: str, I: int, H: int, x_TBI: Tensor, grad_TBH: Tensor) -> Callable[[], object]:
    """PyTorch's layer on packed sequences of full length, which take its slower way."""
    layer = CASES[name].torch_layer(I, H)
    T, B, _ = x_TBI.shape

    def run() -> None:
        x = pack_padded_sequence(x_TBI.detach().requires_grad_(), torch.full((B,), T))
        layer(x)[0].data.backward(grad_TBH.flatten(0, 1))

    return run
