"""`check_cell`: the contract of a cell, checked by running it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .backbones import Backbone, Unrolled
from .cells import Cell, ForeignCell, State
from .padding import padding_mask


B, T = 3, 7  # reviews and steps of the trial sequences


class CellError(ValueError):
    """A cell breaks the contract: one line for each broken part."""


def check_cell(cell: nn.Module) -> None:
    """Run a copy of `cell` on random sequences, in float64.

    Raises CellError, with one line for each broken part: the shapes of states; finite and complete
    gradients that agree with finite differences; reviews that do not affect one another; a sequence
    at once and in two parts; no memory between calls; padding that never affects a review, in
    either direction; and a state_dict with everything that the cell has learned. A module that is
    no Cell has the calling convention of torch.nn's cells, and `input_size` and `hidden_size`.
    """
    name = type(cell).__name__
    cell = _adapted(copy.deepcopy(cell).double().eval(), name)
    checks: list[Callable[[Cell], str | None]] = [
        _state_shapes,
        _gradients,
        _batch_independence,
        _step_against_sequence,
        _padding,
        _state_dict,
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        errors = []
        for check in checks:
            try:
                found = check(cell)
            except Exception as error:  # noqa: BLE001  third-party code may raise anything
                found = f"raises {type(error).__name__}: {error}"
            if found:
                errors.append(f"{check.__name__.strip('_').replace('_', ' ')}: {found}")
            if found and check is _state_shapes:
                break  # nothing else can be checked
    if errors:
        raise CellError(f"{name}:\n" + "\n".join(errors))


def _adapted(cell: nn.Module, name: str) -> Cell:
    if isinstance(cell, Cell):
        return cell
    try:
        return ForeignCell(cell, cell.input_size, cell.hidden_size)  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001  third-party code may raise anything
        lines = str(error).strip().splitlines() or [""]
        raise CellError(f"{name}:\ncall: {lines[0]}") from error


def _inputs(cell: Cell, steps: int = T, reviews: int = B) -> Tensor:
    return torch.randn(steps, reviews, cell.input_size, dtype=torch.float64)


def _states(cell: Cell) -> State:
    return tuple(torch.randn_like(state) for state in cell.initial_state(B))


def _state_shapes(cell: Cell) -> str | None:
    for reviews in (1, B):
        before = cell.initial_state(reviews)
        after = cell(_inputs(cell, reviews=reviews)[0], before)
        for what, state in (("initial_state", before), ("forward", after)):
            if not isinstance(state, tuple) or not all(isinstance(s, Tensor) for s in state):
                return f"{what} returns {type(state).__name__}, not a tuple of tensors"
            shapes = [tuple(s.shape) for s in state]
            if shapes != [(reviews, cell.hidden_size)] * max(len(before), 1):
                return f"{what} returns {shapes}; a state is a tuple of (B, hidden_size) tensors"
            if any(s.dtype != torch.float64 for s in state):
                return f"{what} returns {state[0].dtype} for a float64 cell"
    return None


def _gradients(cell: Cell) -> str | None:
    outputs, _ = Unrolled(cell)(_inputs(cell), _states(cell))
    if not outputs.isfinite().all():
        return "the output is not finite"
    names = [name for name, p in cell.named_parameters() if p.requires_grad]
    parameters = [p for p in cell.parameters() if p.requires_grad]
    for name, gradient in zip(
        names, torch.autograd.grad(outputs.sum(), parameters, allow_unused=True), strict=True
    ):
        if gradient is None or not gradient.any():
            return f"{name} gets no gradient"
        if not gradient.isfinite().all():
            return f"the gradient of {name} is not finite"

    def step(x_BI: Tensor, *values: Tensor) -> State:
        state, weights = values[: len(values) - len(names)], values[len(values) - len(names) :]
        named = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(cell, named, (x_BI, state))

    x_BI = _inputs(cell)[0].requires_grad_()
    state = tuple(s.requires_grad_() for s in _states(cell))
    try:
        torch.autograd.gradcheck(step, (x_BI, *state, *parameters))
    except RuntimeError as error:
        return " ".join(f"they differ from finite differences: {error}".split())[:200]
    return None


def _batch_independence(cell: Cell) -> str | None:
    x_TBI = _inputs(cell)
    batched, _ = Unrolled(cell)(x_TBI)
    for review in range(B):
        alone, _ = Unrolled(cell)(x_TBI[:, review : review + 1])
        if not torch.allclose(alone[:, 0], batched[:, review], rtol=1e-10, atol=1e-12):
            return "a review's states depend on the other reviews of the batch"
    return None


def _step_against_sequence(cell: Cell) -> str | None:
    x_TBI, state = _inputs(cell), _states(cell)
    full, _ = Unrolled(cell)(x_TBI, state)
    if not torch.equal(full, Unrolled(cell)(x_TBI, state)[0]):
        return "the same sequence gives different results: the cell keeps a state between calls"
    first, middle = Unrolled(cell)(x_TBI[:3], state)
    second, _ = Unrolled(cell)(x_TBI[3:], middle)
    if not torch.allclose(torch.cat([first, second]), full, rtol=1e-10, atol=1e-12):
        return "a sequence split in two gives a different result: the state is incomplete"
    return None


def _padding(cell: Cell) -> str | None:
    layer = Unrolled(cell)
    backbone = Backbone(lambda *_: layer, cell.input_size, cell.hidden_size, 1, True, 0.0)
    lengths_B = torch.tensor([T, 4, 1])
    x_TBI = _inputs(cell)
    inside_TB = ~padding_mask(lengths_B, T)
    other_TBI = torch.where(inside_TB[:, :, None], x_TBI, _inputs(cell))
    if not torch.equal(
        backbone(x_TBI, lengths_B)[inside_TB], backbone(other_TBI, lengths_B)[inside_TB]
    ):
        return "padding after a review's end affects its states"
    return None


def _state_dict(cell: Cell) -> str | None:
    x_TBI = _inputs(cell)
    expected, _ = Unrolled(cell)(x_TBI)
    other = copy.deepcopy(cell)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.copy_(torch.randn_like(tensor))
    other.load_state_dict(cell.state_dict(), strict=True)
    if not torch.equal(Unrolled(other)(x_TBI)[0], expected):
        return "a cell that loads it computes different outputs: a parameter or buffer is missing"
    return None
