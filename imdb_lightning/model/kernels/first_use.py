"""The first use of generated kernels is compared with the loop over the cell in float64."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ..cells import ForeignCell, State


Run = Callable[[Any, Tensor, State, Tensor | None], tuple[Tensor, State]]
T, B = 5, 2  # steps and reviews of a comparison: not as many as a step is traced with
PLAIN = (bool, int, float, str, type(None))
CONTAINERS = (dict, OrderedDict, set)
MOST_KINDS = 4  # of one cell that are traced, by its attributes


class ChangingCellError(Exception):
    """The attributes of a cell change all the time, so that it cannot be traced once for all."""


def name_of(cell: Any) -> str:
    """The class that a message names."""
    return type(cell.cell if isinstance(cell, ForeignCell) else cell).__name__


def kind_of(cell: Any, known: Collection[Any], *more: Any) -> tuple[Any, ...]:
    """What a trace of a cell depends on: plain attributes, of its parts too, and `more`.

    A trace has them as constants. Raises ChangingCellError if too many kinds are `known`.
    """
    plain = []
    for number, module in enumerate(cell.modules()):
        for name, value in vars(module).items():
            if type(value) in CONTAINERS:
                continue
            if isinstance(value, list | tuple):
                value = tuple(value)
            elif isinstance(value, Tensor) and value.numel() == 1 and value.is_cpu:
                value = value.item()
            parts = value if isinstance(value, tuple) else (value,)
            if all(isinstance(part, PLAIN) for part in parts):
                plain.append((number, name, value))
    kind = (*more, *plain)
    if kind not in known and len(known) >= MOST_KINDS:
        raise ChangingCellError("its attributes change all the time")
    return kind


def check_first_use(cell: Any, run: Run, unroll: Run, like: Tensor, bound: float) -> None:
    """Raises RuntimeError if results or gradients of `run` differ from those of `unroll`.

    `bound` is the largest relative error, of norms. The tensors are as `like`, of the cell's device
    and type; nothing is drawn from PyTorch's random numbers.
    """
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(like.device, like.dtype)

    x_TBI = draw(T, B, cell.input_size)
    state = tuple(draw(B, cell.hidden_size) for _ in range(cell.states))
    grad_TBH = draw(T, B, cell.hidden_size)
    bound = max(bound, 16 * torch.finfo(like.dtype).eps)  # of bfloat16
    with torch.enable_grad():
        mine = _results(copy.deepcopy(cell), run, x_TBI, state, grad_TBH)
        doubles = [tensor.double() for tensor in (x_TBI, *state, grad_TBH)]
        exact = copy.deepcopy(cell).double()
        theirs = _results(exact, unroll, doubles[0], tuple(doubles[1:-1]), doubles[-1])
    for value, target in zip(mine, theirs, strict=True):
        error = (value.double() - target).norm() / target.norm().clamp(min=1e-3)
        if not error < bound:  # also if it is not a number
            raise RuntimeError(f"its results differ from the loop's by {error:.0e}")


def _results(cell: Any, run: Run, x_TBI: Tensor, state: State, grad_TBH: Tensor) -> list[Tensor]:
    given = [tensor.detach().requires_grad_() for tensor in (x_TBI, *state)]
    h_TBH, last = run(cell, given[0], tuple(given[1:]), None)
    trained = [p for p in cell.parameters() if p.requires_grad]
    grads = torch.autograd.grad(
        (h_TBH, *last),
        [*given, *trained],
        (grad_TBH, *(torch.ones_like(s) for s in last)),
        allow_unused=True,
    )
    return [h_TBH, *last, *(g for g in grads if g is not None)]
