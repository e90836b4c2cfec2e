"""A cell over whole sequences on a CPU in float32, by C that is generated from its step.

Dimensions: T steps, B reviews, I input size, H hidden size. IP and HP are I and H rounded up to
whole vectors of the processor.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence as Many
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..backbones import refuse_second_derivative
from . import library
from .emit_c import Packed, emit
from .groups import MatrixGrad, Row, VectorGrad
from .plan import BEFORE, plan
from .sequence import Generated, State


NUMBERS = ("threads", "T", "B", "I", "H", "grad_h_step", "out_of_memory")
POINTERS = (
    "lengths x rows matrices first last h saved "
    "grad_h grad_last grad_first grad_x grad_rows grad_matrices"
).split()


Key = tuple[int, bool, Any]
"""A matrix, whether its transpose is meant, and what is on the left of an outer product."""


class Call(ctypes.Structure):
    """struct call of tiles.h."""

    _fields_ = [
        *((name, ctypes.c_long) for name in NUMBERS),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


class Native:
    """The compiled loops of a generated cell. Raises RuntimeError if they cannot be compiled."""

    name = "C"

    def __init__(self, generated: Generated) -> None:
        self.generated = generated
        self.H = generated.H
        self.plan = plan(generated.step, after_at_hand=True)
        self.source = emit(self.plan)
        kernels = library.load(self.source.text)
        if kernels is None:
            raise RuntimeError("it cannot be compiled")
        self.kernels = kernels
        kernels.saved_row.argtypes, kernels.saved_row.restype = [ctypes.c_long], ctypes.c_long
        self.lanes = kernels.lanes()
        self.panel = kernels.panel_width()
        self.vectors, starts = self._vectors()
        self.row_places = [self._row_places(rows, starts) for rows in self.source.rows]
        self.grad_places = [self._grad_places(c) for c in range(len(generated.shapes))]
        self.orders = {
            order: torch.tensor(order)
            for packed in (*self.source.matrices[0], *self.source.matrices[1])
            for order in (packed.parts, packed.groups)
            if order
        }

    def __call__(
        self, cell: Any, x_TBI: Tensor, state: State, lengths_B: Tensor | None
    ) -> tuple[Tensor, State]:
        """Output h_TBH of every step and the last state. All tensors are contiguous float32."""
        constants = self.generated.constants_of(cell, x_TBI.device)
        keep = torch.is_grad_enabled()
        h_TBH, *last = NativeFunction.apply(
            self, keep, lengths_B, len(state), x_TBI, *state, *constants
        )
        return h_TBH, tuple(last)

    def run(self, x_TBI: Tensor, lengths_B: Tensor | None, **given: Any) -> None:
        """One direction; `given` are tensors and lists of tensors, by their names in `Call`."""
        T, B, I = x_TBI.shape
        call = Call(self.threads(x_TBI), T, B, I, self.H)
        kept = []
        for name, value in {"x": x_TBI, "lengths": lengths_B, **given}.items():
            if isinstance(value, list):
                array = (ctypes.c_void_p * max(1, len(value)))(*(t.data_ptr() for t in value))
                kept.append(array)
                setattr(call, name, ctypes.addressof(array))
            elif value is not None:
                setattr(call, name, value.data_ptr())
        if "grad_h" in given:
            call.grad_h_step = given["grad_h"].stride(0)
        if self.kernels.run(ctypes.byref(call)):
            raise MemoryError("the recurrent kernel could not get its scratch memory")

    def threads(self, x_TBI: Tensor) -> int:
        return min(torch.get_num_threads(), x_TBI.shape[1])

    def whole(self, size: int) -> int:
        return -(-size // self.lanes) * self.lanes

    def packed(self, which: int, constants: Many[Tensor], I: int) -> list[Tensor]:
        """The matrices of one direction."""
        return [self._pack(packed, constants, I) for packed in self.source.matrices[which]]

    def _pack(self, packed: Packed, constants: Many[Tensor], I: int) -> Tensor:
        """In panels of columns, which a tile of the product reads from end to end."""
        H, more = self.H, self.whole(self.H) - self.H
        matrix = constants[packed.constant]
        matrix_KN = matrix.mT if packed.transposed else matrix
        if packed.parts is not None and not self._is_in_order(packed.parts, matrix_KN.shape[0]):
            parts = matrix_KN.unflatten(0, (-1, H)).index_select(0, self.orders[packed.parts])
            if len(packed.parts) > 1 and more:
                parts = pad(parts, (0, 0, 0, more))
            matrix_KN = parts.flatten(0, 1)
        if packed.groups is None:
            if matrix_KN.shape[1] != self.whole(I):
                matrix_KN = pad(matrix_KN[:, :I], (0, self.whole(I) - I))
        elif not self._is_in_order(packed.groups, matrix_KN.shape[1]):
            groups = matrix_KN.unflatten(1, (-1, H)).index_select(1, self.orders[packed.groups])
            matrix_KN = (pad(groups, (0, more)) if more else groups).flatten(1)
        K, N = matrix_KN.shape
        panels = -(-N // self.panel)
        if panels * self.panel != N:
            matrix_KN = pad(matrix_KN, (0, panels * self.panel - N))
        return matrix_KN.view(K, panels, self.panel).transpose(0, 1).contiguous()

    def _is_in_order(self, groups: tuple[int, ...], width: int) -> bool:
        """Whether these are all groups of a matrix as they are, without columns in between."""
        whole = self.whole(self.H) == self.H or groups == (0,) == tuple(range(width // self.H))
        return whole and groups == tuple(range(width // self.H))

    def rows(self, which: int, constants: Many[Tensor]) -> Tensor:
        """(n, HP): sums of vectors."""
        return self._flat(constants)[self.row_places[which]].sum(0)

    def _flat(self, constants: Many[Tensor]) -> Tensor:
        """All constants that are vectors or numbers, and a zero."""
        zero = constants[0].new_zeros(1)
        return torch.cat([*(constants[c].flatten() for c in self.vectors), zero])

    def _vectors(self) -> tuple[list[int], dict[int, int]]:
        """The constants that rows are sums of, and where each begins among them."""
        nodes = self.plan.graph.nodes
        used = {nodes[node][1] for node, (kind, *_) in enumerate(nodes) if kind in BEFORE}
        sizes = {c: math.prod(self.generated.shapes[c]) for c in sorted(used)}
        ends = [*accumulate(sizes.values(), initial=0)]
        return [*sizes], dict(zip([*sizes, None], ends, strict=True))

    def _row_places(self, rows: Many[tuple[int, ...]], starts: dict[Any, int]) -> Tensor:
        """(terms, rows, HP): what of `_flat` adds up to the rows of one direction."""
        nodes, H = self.plan.graph.nodes, self.H
        zero = starts[None]
        found = []
        for vectors in rows or [()]:
            terms = []
            for vector in vectors:
                kind, *rest = nodes[vector]
                for part in rest[1] if kind == "input" else (vector,):
                    kind, c, *g = nodes[part]
                    first = starts[c] + (g[0] * H if g else 0)
                    terms.append([first + (j if g else 0) for j in range(H)])
            found.append([term + [zero] * (self.whole(H) - H) for term in terms])
        most = max([1, *map(len, found)])
        nothing = [zero] * self.whole(H)
        return torch.tensor(
            [[row[i] if i < len(row) else nothing for row in found] for i in range(most)]
        )

    def gradients(
        self,
        constants: Many[Tensor],
        wanted: Many[bool],
        matrices: Many[Tensor],
        columns: Tensor,
        I: int,
    ) -> list[Tensor | None]:
        """Of the constants, from what the threads have added up."""
        H, HP = self.H, self.whole(self.H)
        pieces: dict[Key, list[tuple[tuple[int, ...], Tensor]]] = {}
        for outer, total in zip(self.source.outers, matrices, strict=True):
            found = total.sum(0)
            if HP != H:
                found = found.view(-1, HP, found.shape[1])[:, :H].flatten(0, 1)
            if outer.left is None:
                found = found[:, :I]
            elif HP != H:
                found = found.view(len(found), -1, HP)[..., :H].flatten(1)
            key = outer.constant, outer.transposed, outer.left
            pieces.setdefault(key, []).append((outer.right, found))
        sums = columns.sum(0)
        grads: list[Tensor | None] = []
        for c, gradient in enumerate(self.plan.gradient.constants):
            grad = None
            if not wanted[c] or gradient is None:
                pass
            elif isinstance(gradient, MatrixGrad):
                parts = [self._matrix_grad(c, *product, pieces) for product in gradient.products]
                grad = sum(parts[1:], parts[0]).view(constants[c].shape)
            else:  # indexing copies: parameters with the same gradient must not share its memory
                grad = sums[self.grad_places[c]].sum(0).view(constants[c].shape)
            grads.append(grad)
        return grads

    def _grad_places(self, c: int) -> Tensor:
        """(terms, n): what of the columns adds up to the gradient of a vector or a number."""
        gradient = self.plan.gradient.constants[c]
        if not isinstance(gradient, VectorGrad):
            return torch.empty(0)
        H, HP = self.H, self.whole(self.H)
        terms = []
        for row in gradient.rows:
            starts = [self.source.columns[group] * HP for group in row.groups]
            # `one`: a number of each review, repeated for all units
            term = [start + j for start in starts for j in range(1 if row.one else H)]
            to_one = gradient.to_one or math.prod(self.generated.shapes[c]) == 1
            terms += [[place] for place in term] if to_one else [term]
        return torch.tensor(terms)

    def _matrix_grad(
        self,
        c: int,
        left: Any,
        right: Any,
        transposed: bool,
        pieces: dict[Key, list[tuple[tuple[int, ...], Tensor]]],
    ) -> Tensor:
        slots = None
        if isinstance(left, Row):
            slots = tuple(self.source.lefts[group] for group in left.groups)
        wanted = tuple(self.source.columns[group] for group in right.groups)
        found = pieces[c, transposed, slots]
        if [columns for columns, _ in found] == [wanted]:
            part = found[0][1]
        else:
            places = {
                slot: tensor[at * self.H : (at + 1) * self.H]
                for columns, tensor in found
                for at, slot in enumerate(columns)
            }
            part = torch.cat([places[slot] for slot in wanted])
        return (part if transposed else part.mT).contiguous()


class NativeFunction(torch.autograd.Function):
    """A node of autograd's graph: a whole sequence."""

    @staticmethod
    def forward(
        ctx: Any,
        native: Native,
        keep: bool,
        lengths_B: Tensor | None,
        count: int,
        x_TBI: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        state, constants = tensors[:count], tensors[count:]
        T, B, I = x_TBI.shape
        h_TBH = x_TBI.new_empty(T, B, native.H)
        last = [torch.empty_like(first) for first in state]
        row = native.kernels.saved_row(native.H)
        saved = x_TBI.new_empty(T, B, row) if keep else None
        native.run(
            x_TBI,
            lengths_B,
            rows=native.rows(0, constants),
            matrices=native.packed(0, constants, I),
            first=[*state],
            last=last,
            h=h_TBH,
            saved=saved,
        )
        if keep:
            ctx.native, ctx.count = native, count
            ctx.save_for_backward(lengths_B, x_TBI, h_TBH, saved, *tensors)
        return h_TBH, *last

    @staticmethod
    def backward(ctx: Any, grad_h_TBH: Tensor, *grad_last: Tensor) -> tuple[Any, ...]:
        refuse_second_derivative()
        native: Native = ctx.native
        lengths_B, x_TBI, h_TBH, saved, *tensors = ctx.saved_tensors
        state, constants = tensors[: ctx.count], tensors[ctx.count :]
        I, HP = x_TBI.shape[2], native.whole(native.H)
        threads = native.threads(x_TBI)
        if not grad_h_TBH[0].is_contiguous():  # one for all steps, as that of a mean, is read so
            grad_h_TBH = grad_h_TBH.contiguous()
        grad_x = torch.empty_like(x_TBI) if ctx.needs_input_grad[4] else None
        grad_first = [torch.empty_like(first) for first in state]
        matrices = [
            x_TBI.new_zeros(
                threads,
                len(outer.right) * HP,
                native.whole(I) if outer.left is None else len(outer.left) * HP,
            )
            for outer in native.source.outers
        ]
        columns = x_TBI.new_zeros(threads, max(1, len(native.source.columns)) * HP)
        native.run(
            x_TBI,
            lengths_B,
            rows=native.rows(1, constants),
            matrices=native.packed(1, constants, I),
            first=[*state],
            h=h_TBH,
            saved=saved,
            grad_h=grad_h_TBH,
            grad_last=[grad.contiguous() for grad in grad_last],
            grad_first=grad_first,
            grad_x=grad_x,
            grad_rows=columns,
            grad_matrices=matrices,
        )
        wanted = ctx.needs_input_grad[5 + ctx.count :]
        grads = native.gradients(constants, wanted, matrices, columns, I)
        return None, None, None, None, grad_x, *grad_first, *grads
