"""Kernels that are generated from a cell's step, against the loop over the cell.

pytest tests/model/test_generated.py
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from imdb_lightning import Cell
from imdb_lightning.model.backbones import Unrolled
from imdb_lightning.model.cells import State
from imdb_lightning.model.fused import unrolled
from imdb_lightning.model.kernels import cuda
from imdb_lightning.model.kernels.graphs import GraphedLoops
from imdb_lightning.model.kernels.interpret import Interpreter
from imdb_lightning.model.kernels.sequence import Generated
from imdb_lightning.model.kernels.trace import CannotGenerateError
from tests.model.papers import CELLS, HighwayCell
from tests.model.test_fused import everything, inputs


# What is kept of a step, and the gradient columns that wait for the end: as few as by hand.
PLANS = {"rnn": (1, 1), "lstm": (5, 4), "gru after": (4, 4), "gru before": (4, 3), "indrnn": (1, 2)}
SIZES = [(7, 5, 5, 8), (4, 3, 6, 6), (3, 1, 3, 1), (5, 2, 1, 17)]  # T, B, I, H


def generated(cell: Cell, way: type[Interpreter | GraphedLoops] = Interpreter) -> torch.nn.Module:
    made = Generated(cell, cell.states)
    loops = way(made.plan)

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
            return made(self.cell, loops, x, state, lengths)

    return Layer()


@pytest.mark.parametrize(
    ("name", "sizes", "ragged"),
    [
        pytest.param(*case, marks=[] if case[1] == SIZES[0] else [pytest.mark.slow], id=str(case))
        for case in product(CELLS, SIZES, (False, True))
    ],
)
def test_the_interpreted_plan_is_the_loop(
    name: str, sizes: tuple[int, int, int, int], ragged: bool
) -> None:
    torch.manual_seed(0)
    T, B, I, H = sizes
    cell = CELLS[name](I, H).double()
    x, state, lengths = inputs(cell, T, B, ragged, torch.float64)
    found = everything(generated(cell), x, state, lengths)
    expected = everything(Unrolled(cell), x, state, lengths)
    for mine, target in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CELLS)
def test_loops_for_cuda_graphs_are_the_loop(name: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](3, 5).double()
    layer = generated(cell, GraphedLoops)
    for T, ragged in ((15, True), (33, False)):  # both are padded to a multiple
        x, state, lengths = inputs(cell, T, 4, ragged, torch.float64)
        found = everything(layer, x, state, lengths)
        expected = everything(Unrolled(cell), x, state, lengths)
        for mine, target in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
            torch.testing.assert_close(mine, target, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ragged", [False, True])
def test_the_input_may_enter_beside_its_product(ragged: bool) -> None:
    torch.manual_seed(0)
    cell = HighwayCell(6, 6).double()
    x, state, lengths = inputs(cell, 5, 3, ragged, torch.float64)
    found = everything(generated(cell), x, state, lengths)
    expected = everything(Unrolled(cell), x, state, lengths)
    for mine, target in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-9, atol=1e-11)
    with pytest.raises(CannotGenerateError, match="the input enters outside a product"):
        Generated(WiderInput(4, 6), 1)


@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    torch.manual_seed(1)
    cell = CELLS[name](3, 2).double()
    layer = generated(cell)
    x, state, lengths = inputs(cell, 4, 3, True, torch.float64)

    def run(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        states, weights = values[: cell.states], values[cell.states :]
        named = dict(zip([n for n, _ in layer.named_parameters()], weights, strict=True))
        h, last = torch.func.functional_call(layer, named, (x, states, lengths))
        return h, *last

    assert torch.autograd.gradcheck(run, (x, *state, *layer.parameters()))


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_keeps_no_more_than_it_must(name: str) -> None:
    cell = CELLS[name](5, 8)
    plan = Generated(cell, cell.states).plan
    assert (len(plan.saved), len(plan.columns)) == PLANS[name]


def test_tracing_draws_no_random_numbers() -> None:
    cell = CELLS["lstm"](3, 4)
    before = torch.get_rng_state()
    Generated(cell, cell.states)
    assert torch.equal(before, torch.get_rng_state())


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package has logged: PyTorch logs each trace."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("imdb_lightning")]


def test_a_first_use_under_inference_mode_is_compared_with_the_loop_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda, "GraphedLoops", Interpreter)  # which it captures on a GPU
    cell = CELLS["minimal"](3, 4)
    sequence = cuda.CudaSequence(cell, unrolled, ("CUDA graphs",))
    x = torch.randn(5, 2, 3)
    with torch.inference_mode():
        h, _ = sequence(x.clone(), cell.initial_state(2), None)
        torch.testing.assert_close(h, Unrolled(cell)(x)[0])
    assert sequence.by == "PyTorch"
    sequence(x, cell.initial_state(2), None)[0].sum().backward()
    assert cell.weight_hh.grad is not None
    assert ours(caplog) == []


def test_results_that_differ_from_the_loop_are_rejected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Interpreter):
        def forward(self, *arguments: Any) -> None:
            super().forward(*arguments)
            arguments[3][0][1:] += 0.1

    monkeypatch.setattr(cuda, "GraphedLoops", Wrong)
    cell = CELLS["coupled"](3, 4)
    x = torch.randn(5, 2, 3)
    sequence = cuda.CudaSequence(cell, unrolled, ("CUDA graphs",))
    assert torch.equal(sequence(x, cell.initial_state(2), None)[0], Unrolled(cell)(x)[0])
    assert sequence.by == "loop"
    (line,) = ours(caplog)
    assert "its results differ from the loop's by" in line


class OneMatrix(Cell):
    """A state of `function(W_ih x + b_ih + W_hh h, h)`."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(3, 4, gates=1)
        self.function = function

    def step(self, projected_x: Tensor, state: State) -> State:
        total = projected_x + torch.nn.functional.linear(state[0], self.weight_hh)
        return (self.function(total, state[0]),)


NASTY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a mask as a number": lambda v, h: v * (v > 0) + (h > 0.1).to(v),
    "one minus a mask": lambda v, h: v * (1 - (v > 0).to(v)) + torch.where((v > 0) & (h < 0), v, h),
    "a gradient that is zero": lambda v, h: torch.sign(v) + 0 * v,
    "a mean for all units": lambda v, h: v.mean(1, keepdim=True).expand_as(h) + h,
    "in place": lambda v, h: v.clone().sigmoid_() * h,
    "zeros beside": lambda v, h: torch.cat([torch.zeros_like(v), v], 1).chunk(2, 1)[1] + h,
    "gates side by side": lambda v, h: torch.stack([v, h], 1)[:, 1] * v,
}


@pytest.mark.parametrize("name", NASTY)
def test_unusual_cells_equal_the_loop(name: str) -> None:
    torch.manual_seed(0)
    cell = OneMatrix(NASTY[name]).double()
    x, state, lengths = inputs(cell, 4, 5, True, torch.float64)
    parameters = [x, *state, *cell.parameters()]
    layer = generated(cell)
    values = []
    for run in (layer, Unrolled(cell)):
        h, last = run(x, state, lengths)
        grads = torch.autograd.grad(
            (h.square().sum(), last[0].sum()), parameters, allow_unused=True
        )
        zeros = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)
        ]
        values.append([h, *zeros])
    for mine, target in zip(*values, strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-9, atol=1e-11)


class WiderInput(OneMatrix):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        Cell.__init__(self, input_size, hidden_size, gates=1)

    def forward(self, x_BI: Tensor, state: State) -> State:
        return (torch.tanh(self.project(x_BI)) * x_BI.sum(1, keepdim=True) + state[0],)


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "randomness": (lambda v, h: v * torch.rand_like(v), "it draws random numbers"),
    "dropout": (lambda v, h: torch.dropout(v, 0.5, True), "it draws random numbers"),
    "if on data": (lambda v, h: v if v.sum() > 0 else -v, "it asks for a number: if, while"),
    "reviews that see one another": (
        lambda v, h: v - v.mean(0),
        "a reduction that is not over the units",
    ),
    "a product of two states": (lambda v, h: v @ (h.T @ h), "a product of two tensors"),
    "part of a gate": (lambda v, h: torch.cat([v[:, :3], h[:, :1]], 1), "cut a gate of 4 units"),
    "a value without its gradient": (lambda v, h: v + v.detach(), "it detaches a value"),
    "a division that rounds": (
        lambda v, h: torch.div(v, 2, rounding_mode="floor"),
        "a division that rounds",
    ),
    "other types": (lambda v, h: v.long().to(v), "it converts to torch.int64"),
    "gates that are not whole": (
        lambda v, h: v.view(-1, 2, 2).softmax(2).flatten(1),
        "not whole gates|cuts a gate",
    ),
    "over gates": (lambda v, h: torch.stack([v, h], 1).sum(1), "not over the units"),
    "an outer product": (
        lambda v, h: (v.unsqueeze(2) * h.unsqueeze(1)).sum(2),
        "gives .* way not known|not whole gates",
    ),
    "an operation that is not listed": (
        lambda v, h: torch.atan(v),
        r"the operation atan .* \(line \d+ of test_generated\.py\)$",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_cells_without_a_kernel_are_refused_in_one_line(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(CannotGenerateError, match=message) as error:
        Generated(OneMatrix(function), 1)
    assert "\n" not in str(error.value)
