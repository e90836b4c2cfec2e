"""A plan, run by PyTorch's operations: on any device, in any type, without a compiler.

Dimensions: T steps, B reviews, H hidden size, P inputs, R rows, S saved groups, D gradient columns.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..padding import padding_mask_like
from .groups import UNARY
from .loops import Loops
from .plan import Plan


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    **{name: getattr(torch, name) for name in UNARY},
    **{name: getattr(operator, name) for name in "add sub mul gt ge lt le eq ne".split()},
    **{name: getattr(torch, name) for name in ("logical_and", "logical_or")},
    "div": operator.truediv,
    **{name: getattr(torch, name) for name in ("maximum", "minimum", "where")},
}
OF_TENSORS = ("maximum", "minimum", "where")  # operations that take no numbers


class Interpreter(Loops):
    """The two loops over time of one plan."""

    name = "PyTorch"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def forward(
        self,
        inputs_TBPH: Tensor,
        rows_RH: Tensor,
        constants: Sequence[Tensor],
        states: Sequence[Tensor],
        lengths_B: Tensor | None,
        saved_TBSH: Tensor | None,
    ) -> None:
        """Fill `states`, (T+1, B, H) each, from their first row on, and `saved_TBSH`."""
        plan = self.plan
        padding_TB1 = padding_mask_like(inputs_TBPH, lengths_B)
        for t in range(len(inputs_TBPH)):
            values = Values(plan, constants, rows_RH, states[0][t])
            for k, state in enumerate(states):
                values.set("state", k, state[t])
            for p, node in enumerate(plan.inputs):
                values[node] = inputs_TBPH[t, :, p]
            values.compute(plan.forward)
            for state, node in zip(states, plan.after, strict=True):
                new = values.tensor(node)
                if padding_TB1 is not None:
                    new = torch.where(padding_TB1[t], state[t], new)
                state[t + 1] = new
            if saved_TBSH is not None:
                for s, node in enumerate(plan.saved):
                    saved_TBSH[t, :, s] = values[node]

    def backward(
        self,
        rows_RH: Tensor,
        constants: Sequence[Tensor],
        states: Sequence[Tensor],
        lengths_B: Tensor | None,
        saved_TBSH: Tensor,
        grad_h_TBH: Tensor,
        grads: Sequence[Tensor],
        columns_TBDH: Tensor,
    ) -> list[Tensor]:
        """Fill `columns_TBDH`; the gradient of the first state. `grads`: of the last state."""
        plan = self.plan
        now = list(grads)
        padding_TB1 = padding_mask_like(grad_h_TBH, lengths_B)
        for t in reversed(range(len(grad_h_TBH))):
            now[0] = now[0] + grad_h_TBH[t]
            values = Values(plan, constants, rows_RH, states[0][t])
            for k, state in enumerate(states):
                values.set("state", k, state[t])
                values.set("grad", k, now[k])
            for s, node in enumerate(plan.saved):
                values[node] = saved_TBSH[t, :, s]
            values.compute(plan.backward)
            for d, node in enumerate(plan.columns):
                columns_TBDH[t, :, d] = values[node]
            if padding_TB1 is not None:
                columns_TBDH[t].masked_fill_(padding_TB1[t].unsqueeze(2), 0)
            before = [values.tensor(node) for node in plan.gradient.state]
            if padding_TB1 is not None:
                before = [
                    torch.where(padding_TB1[t], a, b) for a, b in zip(now, before, strict=True)
                ]
            now = before
        return now


class Values(dict[int, Any]):
    """The value of each node in one step."""

    def __init__(
        self, plan: Plan, constants: Sequence[Tensor], rows_RH: Tensor, like_BH: Tensor
    ) -> None:
        super().__init__()
        self.like_BH = like_BH
        self.graph = plan.graph
        self.constants = constants
        self.products: dict[Any, Tensor] = {}
        self.update(zip(plan.rows, rows_RH.unbind(), strict=True))

    def set(self, kind: str, k: int, value: Tensor) -> None:
        node = self.graph.numbers.get((kind, k))
        if node is not None:
            self[node] = value

    def __missing__(self, node: int) -> Any:
        value = self.graph.value(node)
        if value is None:
            raise KeyError(self.graph.nodes[node])
        return value

    def tensor(self, node: int) -> Tensor:
        """As (B, H), also what is one number."""
        value = self[node]
        if isinstance(value, Tensor) and value.shape == self.like_BH.shape:
            return value
        return torch.zeros_like(self.like_BH) + value

    def compute(self, order: Sequence[int]) -> None:
        for node in order:
            kind, *rest = self.graph.nodes[node]
            if kind == "product":
                self[node] = self._product(*rest)
            elif kind == "row_sum":
                self[node] = sum(self.tensor(group).sum(1, keepdim=True) for group in rest[0])
            elif kind == "row_max":
                parts = [self.tensor(group).amax(1, keepdim=True) for group in rest[0]]
                self[node] = torch.cat(parts, 1).amax(1, keepdim=True)
            else:
                operands = [self[operand] for operand in rest]
                if kind in OF_TENSORS:
                    operands = [self._filled(operand) for operand in operands]
                if not any(isinstance(operand, Tensor) for operand in operands):
                    operands[0] = self._filled(operands[0])
                self[node] = OPERATIONS[kind](*operands)

    def _filled(self, value: Any) -> Tensor:
        """A number as a tensor, made on the device: a copy to it could not be captured."""
        return value if isinstance(value, Tensor) else self.like_BH.new_full((), value)

    def _product(self, left: tuple[int, ...], c: int, transposed: bool, g: int) -> Tensor:
        """Of all groups of columns at once."""
        key = (left, c, transposed)
        if key not in self.products:
            rows = [self.tensor(group) for group in left]
            row = rows[0] if len(rows) == 1 else torch.cat(rows, 1)
            matrix = self.constants[c]
            self.products[key] = row @ (matrix.mT if transposed else matrix)
        H = self.like_BH.shape[1]
        return self.products[key][:, g * H : (g + 1) * H]
