"""A cell over whole sequences from its plan: the products before and after the loops over time.

Dimensions: T steps, B reviews, I input size, H hidden size, P inputs, R rows, S saved groups,
D gradient columns.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..backbones import refuse_second_derivative
from ..padding import padding_mask_like
from . import precision
from .groups import Input, MatrixGrad, Row, VectorGrad, lower
from .plan import Plan, plan
from .trace import on, trace


State = tuple[Tensor, ...]


class Generated:
    """A traced cell: its plan and the graph of its constants.

    Raises CannotGenerateError where the cell's step is outside the language.
    """

    def __init__(self, cell: Any, states: int) -> None:
        I, H = cell.input_size, cell.hidden_size
        traced = trace(cell, states)
        self.getters = [attrgetter(name) for name in traced.names]
        self.traced = traced.constants
        self.constants: dict[torch.device, Any] = {}
        self.shapes = traced.shapes
        self.step = lower(traced, I, H, states)
        self.plan: Plan = plan(self.step)
        self.H = H

    def constants_of(self, cell: Any, device: torch.device) -> tuple[Tensor, ...]:
        """What the step reads, as functions of the cell's parameters."""
        if device not in self.constants:
            self.constants[device] = on(self.traced, device)
        return self.constants[device](*(get(cell) for get in self.getters))

    def __call__(
        self, cell: Any, loops: Any, x_TBI: Tensor, state: State, lengths_B: Tensor | None
    ) -> tuple[Tensor, State]:
        """Output h_TBH of every step and the last state, by the loops of `loops`."""
        constants = self.constants_of(cell, x_TBI.device)
        keep = torch.is_grad_enabled()
        h_TBH, *last = SequenceFunction.apply(
            self, loops, keep, lengths_B, len(state), x_TBI, *state, *constants
        )
        return h_TBH, tuple(last)


class SequenceFunction(torch.autograd.Function):
    """A node of autograd's graph: products for all steps, and a loop over time each way."""

    @staticmethod
    def forward(
        ctx: Any,
        generated: Generated,
        loops: Any,
        keep: bool,
        lengths_B: Tensor | None,
        count: int,
        x_TBI: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        plan, H = generated.plan, generated.H
        state, constants = tensors[:count], tensors[count:]
        T, B, _ = x_TBI.shape
        padding_TB1 = padding_mask_like(x_TBI, lengths_B)
        if padding_TB1 is not None:
            x_TBI = x_TBI.masked_fill(padding_TB1, 0)  # NaN there would spread
        rows_RH = rows(plan, constants, x_TBI, H)
        with precision.of_layers(x_TBI):
            inputs_TBPH = inputs(plan, constants, x_TBI, H)
        states = []
        for first in state:
            buffer = x_TBI.new_empty(T + 1, B, H)
            buffer[0] = first
            states.append(buffer)
        saved = loops.new_saved(x_TBI, T, B, H) if keep else None
        loops.forward(inputs_TBPH, rows_RH, constants, states, lengths_B, saved)
        if keep:
            ctx.generated, ctx.loops, ctx.count = generated, loops, count
            ctx.save_for_backward(x_TBI, lengths_B, rows_RH, saved, *states, *constants)
        return states[0][1:], *(buffer[-1] for buffer in states)

    @staticmethod
    def backward(ctx: Any, grad_h_TBH: Tensor, *grads: Tensor) -> tuple[Any, ...]:
        refuse_second_derivative()
        plan, H = ctx.generated.plan, ctx.generated.H
        x_TBI, lengths_B, rows_RH, saved, *tensors = ctx.saved_tensors
        states, constants = tensors[: ctx.count], tensors[ctx.count :]
        T, B, _ = x_TBI.shape
        columns = x_TBI.new_empty(T, B, len(plan.columns), H)
        first = ctx.loops.backward(
            rows_RH, constants, states, lengths_B, saved, grad_h_TBH, grads, columns
        )
        loops = ctx.loops
        sums = Sums(
            plan, x_TBI, states, lambda s: loops.saved_group(saved, s, B, H), columns, constants
        )
        with precision.of_layers(x_TBI):
            grad_x = sums.x() if ctx.needs_input_grad[5] else None
            of_constants = [
                sums.constant(c) if ctx.needs_input_grad[6 + ctx.count + c] else None
                for c in range(len(constants))
            ]
        return None, None, None, None, None, grad_x, *first, *of_constants


def rows(plan: Plan, constants: Many[Tensor], x_TBI: Tensor, H: int) -> Tensor:
    """(R, H): vectors, numbers and their sums."""
    if not plan.rows:
        return x_TBI.new_empty(0, H)
    found = []
    for node in plan.rows:
        kind, *rest = plan.graph.nodes[node]
        parts = rest[1] if kind == "input" else (node,)
        row = sum(_row(plan, constants, part, H) for part in parts)
        found.append(row.unsqueeze(0))
    return torch.cat(found)


def _row(plan: Plan, constants: Many[Tensor], node: int, H: int) -> Any:
    kind, c, *g = plan.graph.nodes[node]
    flat = constants[c].flatten()
    return flat.expand(H) if kind == "scalar" else flat[g[0] * H : (g[0] + 1) * H]


def inputs(plan: Plan, constants: Many[Tensor], x_TBI: Tensor, H: int) -> Tensor:
    """(T, B, P, H): what x brings to each step, one product for all."""
    T, B, I = x_TBI.shape
    nodes = [plan.graph.nodes[node] for node in plan.inputs]
    flat = x_TBI.flatten(0, 1)
    if not nodes:
        return x_TBI.new_empty(T, B, 0, H)
    terms = max(len(products) for _, products, _ in nodes)
    matrix = None
    for i in range(terms):
        parts = [products[i] if i < len(products) else None for _, products, _ in nodes]
        columns = _matrix(parts, constants, x_TBI, H)
        matrix = columns if matrix is None else matrix + columns
    assert matrix is not None
    bias = None
    for i in range(max(len(vectors) for _, _, vectors in nodes)):
        parts = [plan.graph.nodes[v[i]][1:] if i < len(v) else None for _, _, v in nodes]
        vector = _vector(parts, constants, x_TBI, H)
        bias = vector if bias is None else bias + vector
    product = flat @ matrix if bias is None else torch.addmm(bias, flat, matrix)
    return product.view(T, B, len(nodes), H)


def _matrix(parts: Many[Any], constants: Many[Tensor], x_TBI: Tensor, H: int) -> Tensor:
    """Groups of columns side by side; None: zeros."""
    c = parts[0][0] if parts[0] else None
    if c is not None and list(parts) == [(c, g) for g in range(constants[c].shape[1] // H)]:
        return constants[c]
    I = x_TBI.shape[2]
    found = []
    for part in parts:
        if part is None:
            found.append(x_TBI.new_zeros(I, H))
        elif part[0] is None:
            found.append(torch.eye(H, dtype=x_TBI.dtype, device=x_TBI.device))
        else:
            found.append(constants[part[0]][:, part[1] * H : (part[1] + 1) * H])
    return torch.cat(found, 1)


def _vector(parts: Many[Any], constants: Many[Tensor], x_TBI: Tensor, H: int) -> Tensor:
    c = parts[0][0] if parts[0] else None
    if c is not None and list(parts) == [(c, g) for g in range(constants[c].numel() // H)]:
        return constants[c].flatten()
    return torch.cat(
        [
            x_TBI.new_zeros(H) if part is None else constants[part[0]].flatten()[part[1] * H :][:H]
            for part in parts
        ]
    )


class Sums:
    """Gradients that are sums over all steps and reviews, from what the loops left."""

    def __init__(
        self,
        plan: Plan,
        x_TBI: Tensor,
        states: Many[Tensor],
        saved_group: Callable[[int], Tensor],
        columns_TBDH: Tensor,
        constants: Many[Tensor],
    ) -> None:
        """`saved_group(s)`: group `s` of what was saved, (T * B, H)."""
        self.plan = plan
        self.x_NI = x_TBI.flatten(0, 1)
        self.states = states
        self.saved_group = saved_group
        self.columns_NDH = columns_TBDH.flatten(0, 1)
        self.constants = constants
        self.shape = x_TBI.shape
        self.place = {node: d for d, node in enumerate(plan.columns)}

    def x(self) -> Tensor:
        total = None
        for groups, matrix in self.plan.gradient.x:
            product = self._columns(groups)
            if matrix is not None:
                constant = self.constants[matrix.constant]
                whole = constant.mT if matrix.transposed else constant
                product = product @ whole[:, : self.shape[2]]  # x may be the first part of a row
            total = product if total is None else total + product
        return (
            torch.zeros_like(self.x_NI).view(self.shape)
            if total is None
            else total.view(self.shape)
        )

    def constant(self, c: int) -> Tensor | None:
        gradient, shape = self.plan.gradient.constants[c], self.constants[c].shape
        if isinstance(gradient, MatrixGrad):
            total = None
            for left, right, transposed in gradient.products:
                assert isinstance(right, Row)
                # This way round it is the transpose's, as a parameter of PyTorch is.
                part = self._columns(right.groups).mT @ self._left(left)
                part = part if transposed else part.mT
                total = part if total is None else total + part
            return total
        if isinstance(gradient, VectorGrad):
            total = None
            for row in gradient.rows:
                part = self._sum(row, gradient.to_one or shape.numel() == 1)
                total = part if total is None else total + part
            assert total is not None
            return total.view(shape)
        return None

    def _sum(self, row: Row, to_one: bool) -> Tensor:
        """Over steps and reviews; where `to_one` is set, over units too."""
        parts = self._run(self.totals_DH, 0, row.groups)
        if row.one:  # one number a review, repeated for all units
            parts = parts[:, :1]
        return parts.sum() if to_one else parts.flatten()

    @cached_property
    def totals_DH(self) -> Tensor:
        return self.columns_NDH.sum(0)

    def _columns(self, groups: Many[int]) -> Tensor:
        return self._run(self.columns_NDH, 1, groups).flatten(1)

    def _run(self, tensor: Tensor, dim: int, groups: Many[int]) -> Tensor:
        """The parts of these gradient columns, as few pieces as there are runs of them.

        Never by a list of indices: it would be copied to the GPU, which the processor waits for.
        """
        pieces: list[list[int]] = []
        for group in groups:
            place = self.place[group]
            if pieces and pieces[-1][0] + pieces[-1][1] == place:
                pieces[-1][1] += 1
            else:
                pieces.append([place, 1])
        parts = [tensor.narrow(dim, start, count) for start, count in pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

    def _left(self, left: Row | Input) -> Tensor:
        if isinstance(left, Input):
            return self.x_NI
        parts = []
        for group in left.groups:
            kind, *rest = self.plan.graph.nodes[group]
            if kind == "state":
                parts.append(self.states[rest[0]][:-1].flatten(0, 1))
            else:
                parts.append(self.saved_group(self.plan.saved.index(group)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
