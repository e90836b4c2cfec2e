"""What a step may contain: the operations of docs/cells.md, one by one and in random cells.

pytest tests/model/test_language.py
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from imdb_lightning import Cell
from imdb_lightning.model.backbones import Unrolled
from imdb_lightning.model.cells import State
from imdb_lightning.model.fused import Fused
from imdb_lightning.model.kernels import library
from tests.model.test_fused import inputs
from tests.model.test_generated import generated


PAGE = Path(__file__).parents[2] / "docs" / "cells.md"

Operation = Callable[[Tensor, Tensor], Tensor]

OPERATIONS: dict[str, Operation] = {  # of gates a and b, each (B, H), by the name in the table
    "add": lambda a, b: a + b,
    "sub": lambda a, b: 1 - a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (2 + b * b),
    "neg": lambda a, b: -a,
    "reciprocal": lambda a, b: (2 + a * a).reciprocal(),
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "clamp": lambda a, b: a.clamp(-0.5, 0.7) + b.clamp(min=0.1),
    "abs": lambda a, b: a.abs(),
    "sign": lambda a, b: torch.sign(a) * b,
    "exp": lambda a, b: torch.exp(-a * a),
    "exp2": lambda a, b: torch.exp2(-a * a),
    "expm1": lambda a, b: torch.expm1(-a * a),
    "log": lambda a, b: torch.log(1 + a * a),
    "log2": lambda a, b: torch.log2(1 + a * a),
    "log1p": lambda a, b: torch.log1p(a * a),
    "sqrt": lambda a, b: torch.sqrt(1 + a * a),
    "rsqrt": lambda a, b: torch.rsqrt(1 + a * a),
    "square": lambda a, b: a.square(),
    "pow": lambda a, b: a**3 + (1 + a * a) ** 1.5 + 2.0 ** (-b * b),
    "sigmoid": lambda a, b: torch.sigmoid(a),
    "tanh": lambda a, b: torch.tanh(a),
    "relu": lambda a, b: torch.relu(a),
    "relu6": lambda a, b: F.relu6(a),
    "leaky_relu": lambda a, b: F.leaky_relu(a, 0.1),
    "elu": lambda a, b: F.elu(a),
    "selu": lambda a, b: F.selu(a),
    "celu": lambda a, b: F.celu(a),
    "gelu": lambda a, b: F.gelu(a) + F.gelu(b, approximate="tanh"),
    "silu": lambda a, b: F.silu(a),
    "mish": lambda a, b: F.mish(a),
    "softplus": lambda a, b: F.softplus(a),
    "softsign": lambda a, b: F.softsign(a),
    "logsigmoid": lambda a, b: F.logsigmoid(a),
    "hardtanh": lambda a, b: F.hardtanh(a),
    "hardswish": lambda a, b: F.hardswish(a),
    "softshrink": lambda a, b: F.softshrink(a),
    "hardshrink": lambda a, b: F.hardshrink(a),
    "sin": lambda a, b: torch.sin(a),
    "cos": lambda a, b: torch.cos(a),
    "tan": lambda a, b: torch.tan(0.1 * a / (1 + a * a)),
    "sinh": lambda a, b: torch.sinh(a / (1 + a.abs())),
    "cosh": lambda a, b: torch.cosh(a / (1 + a.abs())),
    "erf": lambda a, b: torch.erf(a),
    "where": lambda a, b: torch.where((a > b) & (b < 0.5) | (a == b), a, 2 * b),
    "masked_fill": lambda a, b: a.masked_fill(a > 0.5, 0.0),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3) + torch.lerp(a, b, torch.sigmoid(a)),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, 1 + b * b),
    "sum": lambda a, b: b * (a * b).sum(-1, keepdim=True),
    "mean": lambda a, b: a - a.mean(1, keepdim=True),
    "var": lambda a, b: a / (1 + a.var(1, keepdim=True)),
    "std": lambda a, b: a / (1 + a.std(1, keepdim=True)),
    "norm": lambda a, b: a / (1 + a.norm(dim=1, keepdim=True)),
    "amax": lambda a, b: a - a.amax(1, keepdim=True),
    "softmax": lambda a, b: torch.softmax(a, 1),
    "log_softmax": lambda a, b: torch.log_softmax(a, 1),
    "logsumexp": lambda a, b: a - torch.logsumexp(a, 1, keepdim=True),
    "layer_norm": lambda a, b: F.layer_norm(a, a.shape[1:]),
    "rms_norm": lambda a, b: F.rms_norm(a, a.shape[1:]),
    "normalize": lambda a, b: F.normalize(a, dim=1),
    "cat": lambda a, b: torch.cat([a, b], 1).chunk(2, 1)[1] * a,
    "stack": lambda a, b: torch.stack([a, b], 1).unbind(1)[0] * b,
    "split": lambda a, b: torch.split(torch.cat([a, b], 1), a.shape[1], 1)[0] + b,
    "slice": lambda a, b: torch.cat([a, b], 1)[:, a.shape[1] :] * a,
    "view": lambda a, b: torch.cat([a, b], 1).view(a.shape[0], 2, -1)[:, 1] * a,
    "unflatten": lambda a, b: torch.cat([a, b], 1).unflatten(1, (2, -1))[:, 0] * b,
    "glu": lambda a, b: F.glu(torch.cat([a, b], 1)),
    "full_like": lambda a, b: a * torch.full_like(a, 0.5) + torch.ones_like(b) - b,
    "tensor": lambda a, b: a * torch.tensor(0.5, dtype=a.dtype),
}


class Gates(Cell):
    """tanh of a function of two gates, and a part of the state."""

    def __init__(self, function: Operation, input_size: int = 3, hidden_size: int = 4) -> None:
        super().__init__(input_size, hidden_size, gates=2)
        self.function = function
        self.scale = nn.Parameter(torch.rand(hidden_size))

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        sums = projected_x + F.linear(h_BH, self.weight_hh, self.bias_hh)
        a_BH, b_BH = sums.chunk(2, 1)
        return (torch.tanh(self.function(a_BH, self.scale * b_BH)) + 0.1 * h_BH,)


def results(
    layer: nn.Module, cell: Cell, x: Tensor, state: State, lengths: Tensor | None
) -> list[Tensor]:
    h, last = layer(x, state, lengths)
    given = [x, *state, *cell.parameters()]
    grads = torch.autograd.grad((h.square().sum(), last[0].sum()), given, allow_unused=True)
    return [
        h,
        *(torch.zeros_like(g) if d is None else d for g, d in zip(given, grads, strict=True)),
    ]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_and_its_gradient_are_pytorchs(name: str) -> None:
    """Near zero, at zero, and where exponentials overflow."""
    torch.manual_seed(0)
    cell = Gates(OPERATIONS[name]).double()
    layer = generated(cell)
    for scale in (1.0, 0.0, 300.0):
        x, state, lengths = inputs(cell, 3, 4, True, torch.float64)
        x = (x.detach() * scale).requires_grad_()
        found, expected = (results(run, cell, x, state, lengths) for run in (layer, Unrolled(cell)))
        for mine, target in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, target, rtol=1e-8, atol=1e-9)


def test_the_page_lists_them() -> None:
    table = PAGE.read_text("utf-8").partition("## Operations")[2].partition("\n## ")[0]
    assert {*OPERATIONS} <= {*re.findall(r"`(\w+)`", table)}


Program = Sequence[tuple[str, int, int]]
PROGRAMS = st.lists(
    st.tuples(st.sampled_from([*OPERATIONS]), st.integers(0, 9), st.integers(0, 9)),
    min_size=2,
    max_size=7,
)


def function_of(program: Program) -> Operation:
    """Each operation reads what came before it; values stay between -1 and 1."""

    def function(a: Tensor, b: Tensor) -> Tensor:
        values = [a, b]
        for name, left, right in program:
            value = OPERATIONS[name](values[left % len(values)], values[right % len(values)])
            values.append(value / (1 + value.abs()))
        return values[-1]

    return function


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=PROGRAMS, seed=st.integers(0, 99))
def test_random_cells_equal_the_loop(program: Program, seed: int) -> None:
    torch.manual_seed(seed)
    cell = Gates(function_of(program)).double()
    x, state, lengths = inputs(cell, 3, 4, True, torch.float64)
    layers = generated(cell), Unrolled(cell)
    found, expected = (results(layer, cell, x, state, lengths) for layer in layers)
    for mine, target in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
@pytest.mark.skipif(not library.can_compile(), reason="no C compiler here")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=PROGRAMS, seed=st.integers(0, 99))
def test_random_cells_in_c_equal_the_loop(program: Program, seed: int) -> None:
    torch.manual_seed(seed)
    cell = Gates(function_of(program), 5, 19)
    x, state, lengths = inputs(cell, 4, 3, True, torch.float32)
    layer = Fused(cell)
    found = results(layer, cell, x, state, lengths)
    assert layer.on_cpu.by == "C"
    double = cell.double()
    x, *state_ = (tensor.detach().double().requires_grad_() for tensor in (x, *state))
    expected = results(Unrolled(double), double, x, tuple(state_), lengths)
    for mine, target in zip(found, expected, strict=True):
        assert (mine.double() - target).norm() <= 1e-3 * (target.norm() + 1e-2)
