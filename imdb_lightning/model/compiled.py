"""Any cell over whole sequences, compiled by torch.compile.

Dimensions: T steps, B reviews, I input size, H hidden size.
"""

from __future__ import annotations

import logging
import warnings
from functools import cache
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .backbones import unroll
from .cells import Cell, State
from .padding import padding_mask_like


CHUNK = (
    20  # steps in one compiled piece; twice as many take twice as long to compile and gain little
)

log = logging.getLogger(__name__)
warn_once = cache(log.warning)


class Compiled(nn.Module):
    """One cell over time, with the calling convention of `Unrolled`, in compiled chunks of steps.

    The input's part of the gates is one product for all steps if the cell has a `step`.
    Compilation takes half a minute for each kind of layer, forward and backward, and PyTorch
    caches it on disk. Another length or batch size does not compile again, only the first
    `lengths_B` does: steps that do not fill a chunk are run one by one, and a single review is run
    twice. A cell that cannot be compiled is unrolled as by `Unrolled`, with one warning in the log.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.precomputes_input = type(cell).forward is Cell.forward
        self.chunk: Any = unroll  # until `_compile`
        self.tried: set[bool] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled programs, which cannot be pickled."""
        return {**super().__getstate__(), "chunk": unroll, "tried": set()}

    def forward(
        self, x_TBI: Tensor, state: State | None = None, lengths_B: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See `Unrolled.forward`."""
        if torch.is_grad_enabled() not in self.tried:
            self._compile(x_TBI)
        B = x_TBI.shape[1]
        if state is None:
            state = self.cell.initial_state(B)
        padding_TB1 = padding_mask_like(x_TBI, lengths_B)
        if padding_TB1 is not None:
            x_TBI = x_TBI.masked_fill(padding_TB1, 0)
        if B == 1:  # torch.compile would specialise on this size
            x_TBI, state = x_TBI.repeat(1, 2, 1), tuple(s.repeat(2, 1) for s in state)
        needs_grad = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in (x_TBI, *state, *self.cell.parameters())
        )
        step = self.cell.step if self.precomputes_input else self.cell
        if self.precomputes_input:
            x_TBI = self.cell.project(x_TBI)
        if needs_grad:  # as in the chunks after the first: one program for all of them
            x_TBI, state = differentiable(x_TBI), tuple(map(differentiable, state))
        h_pieces = []
        padding_pieces = [None] * len(x_TBI) if padding_TB1 is None else padding_TB1.split(CHUNK)
        for x_piece, padding_piece in zip(x_TBI.split(CHUNK), padding_pieces, strict=False):
            run = self.chunk if len(x_piece) == CHUNK else unroll
            h_piece, state = run(step, x_piece, state, padding_piece)
            h_pieces.append(h_piece)
        return torch.cat(h_pieces)[:, :B], tuple(s[:B] for s in state)

    def _compile(self, like_TBI: Tensor) -> None:
        """Compile on a batch of zeros, forward and backward; unroll if that fails.

        The batch has about the size that follows, for which torch.compile distributes the work, but
        one that no dimension of the cell has, since equal sizes are treated as the same symbol.
        """
        training = torch.is_grad_enabled()
        if not self.tried:
            # A copy, since torch.compile stops at eight programs of a function, which a grid of
            # models would share. With cpp_wrapper, C++ calls the products, not Python.
            own = FunctionType(unroll.__code__.replace(), unroll.__globals__)
            options: Any = {"cpp_wrapper": like_TBI.device.type == "cpu"}
            self.chunk = torch.compile(own, dynamic=True, fullgraph=True, options=options)
        self.tried.add(training)
        parameters = list(self.cell.parameters())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        taken = {CHUNK, *(size for parameter in parameters for size in parameter.shape)}
        B = next(size for size in count(max(3, like_TBI.shape[1])) if size not in taken)
        x_TBI = self.cell.weight_hh.new_zeros(CHUNK, B, self.cell.input_size)
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's own, of what it calls while compiling
                h_TBH, _ = self(x_TBI.requires_grad_(training))
                if training:
                    torch.autograd.grad(h_TBH.sum(), [x_TBI, *trained], allow_unused=True)
        except Exception as error:  # noqa: BLE001  torch.compile fails in many ways
            self.chunk = unroll
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            warn_once(f"{type(self.cell).__name__} is unrolled, not compiled: {reason}")


def differentiable(tensor: Tensor) -> Tensor:
    """The tensor, or a leaf like it that takes a gradient."""
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()
