"""The interpreter's loops as CUDA graphs: one launch a sequence rather than some for each step.

For what Triton's kernels cannot do: other types than float32, very wide cells, no Triton.
Dimensions: T steps, B reviews, H hidden size, P inputs, R rows, S saved groups, D gradient columns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .captured import Captured
from .interpret import Interpreter
from .loops import Loops
from .plan import Plan


STEPS = 32  # lengths are rounded up to a multiple: fewer graphs, whose last steps change nothing
KEPT = 16  # graphs


class GraphedLoops(Loops):
    """The two loops over time of one plan, on a GPU."""

    name = "CUDA graphs"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.interpreter = Interpreter(plan)
        self.graphs: OrderedDict[Any, Captured] = OrderedDict()

    def forward(
        self,
        inputs_TBPH: Tensor,
        rows_RH: Tensor,
        constants: Sequence[Tensor],
        states: Sequence[Tensor],
        lengths_B: Tensor | None,
        saved_TBSH: Tensor | None,
    ) -> None:
        """As Interpreter.forward."""
        T, keep, count = len(inputs_TBPH), saved_TBSH is not None, len(states)

        def run(
            inputs_TBPH: Tensor, rows_RH: Tensor, lengths_B: Tensor, *tensors: Tensor
        ) -> list[Tensor]:
            steps, B, _, H = inputs_TBPH.shape
            first, constants = tensors[:count], tensors[count:]
            states = [torch.cat([s.unsqueeze(0), s.new_empty(steps, B, H)]) for s in first]
            saved = inputs_TBPH.new_empty(steps, B, len(self.plan.saved), H) if keep else None
            self.interpreter.forward(inputs_TBPH, rows_RH, constants, states, lengths_B, saved)
            return states if saved is None else [*states, saved]

        lengths_B = self._lengths(lengths_B, T, states[0])
        first = [state[0] for state in states]
        tensors = [_padded(inputs_TBPH), rows_RH, lengths_B, *first, *constants]
        found = self._graph(("forward", keep), run, tensors)
        for state, new in zip(states, found, strict=False):
            state[1:] = new[1 : T + 1]
        if saved_TBSH is not None:
            saved_TBSH.copy_(found[-1][:T])

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
        """As Interpreter.backward."""
        T, count = len(grad_h_TBH), len(states)

        def run(
            rows_RH: Tensor,
            lengths_B: Tensor,
            saved_TBSH: Tensor,
            grad_h_TBH: Tensor,
            *tensors: Tensor,
        ) -> list[Tensor]:
            states, grads, constants = (
                tensors[:count],
                tensors[count : 2 * count],
                tensors[2 * count :],
            )
            steps, B, H = grad_h_TBH.shape
            columns = grad_h_TBH.new_empty(steps, B, len(self.plan.columns), H)
            first = self.interpreter.backward(
                rows_RH, constants, states, lengths_B, saved_TBSH, grad_h_TBH, grads, columns
            )
            return [columns, *first]

        lengths_B = self._lengths(lengths_B, T, states[0])
        steps = [_padded(tensor) for tensor in (saved_TBSH, grad_h_TBH)]
        before = [_padded(state[:-1]) for state in states]
        tensors = [rows_RH, lengths_B, *steps, *before, *grads, *constants]
        columns, *first = self._graph(("backward",), run, tensors)
        columns_TBDH.copy_(columns[:T])
        return [tensor.clone() for tensor in first]

    def _lengths(self, lengths_B: Tensor | None, T: int, like: Tensor) -> Tensor:
        if lengths_B is None:
            return torch.full(like.shape[1:2], T, device=like.device)
        return lengths_B

    def _graph(
        self, key: tuple[Any, ...], run: Callable[..., list[Tensor]], tensors: Sequence[Tensor]
    ) -> list[Tensor]:
        if (
            tensors[0].is_cuda and torch.cuda.is_current_stream_capturing()
        ):  # a part of a larger graph
            return run(*tensors)
        key += tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key in self.graphs:
            self.graphs.move_to_end(key)
        else:
            self.graphs[key] = Captured(run, tensors)
            if len(self.graphs) > KEPT:
                self.graphs.popitem(last=False)
        return self.graphs[key](tensors)


def _padded(tensor: Tensor) -> Tensor:
    """With zeros up to a multiple of STEPS."""
    more = -len(tensor) % STEPS
    return torch.cat([tensor, tensor.new_zeros(more, *tensor.shape[1:])]) if more else tensor
