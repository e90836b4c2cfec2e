"""Any cell over whole sequences, compiled by torch.compile: a user's own too.

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

from .backbones import ended, unroll
from .cells import Cell, State


CHUNK = 20  # steps in one compiled piece: twice as many compile for twice as long, and gain little

log = logging.getLogger(__name__)
warn_once = cache(log.warning)


class Compiled(nn.Module):
    """One cell over time, with the calling convention of `Unrolled`, in compiled chunks of steps.

    What the input brings to the gates is one product for all steps where the cell has a `step`.
    Compilation takes half a minute for each kind of layer and pass, and is kept on disk by
    PyTorch. Neither another length nor another batch size compiles anew, only the first
    `lengths_B` does: steps that do not fill a chunk are run one by one, and a single review is run
    twice. Where the cell cannot be compiled it is unrolled as by `Unrolled`, after one warning in
    the log.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.hoists = type(cell).forward is Cell.forward
        self.chunk: Any = unroll  # until `_try` has compiled it
        self.tried: set[bool] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Without the programs, which no file and no other process can hold."""
        return {**super().__getstate__(), "chunk": unroll, "tried": set()}

    def forward(
        self, x_TBI: Tensor, state: State | None = None, lengths_B: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As that of `Unrolled`."""
        if torch.is_grad_enabled() not in self.tried:
            self._try(x_TBI)
        B = x_TBI.shape[1]
        if state is None:
            state = self.cell.initial_state(B)
        ended_TB1 = ended(x_TBI, lengths_B)
        if ended_TB1 is not None:
            x_TBI = x_TBI.masked_fill(ended_TB1, 0)
        if B == 1:  # a size that torch.compile would make a program of its own for
            x_TBI, state = x_TBI.repeat(1, 2, 1), tuple(s.repeat(2, 1) for s in state)
        needs_grad = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in (x_TBI, *state, *self.cell.parameters())
        )
        step = self.cell.step if self.hoists else self.cell
        if self.hoists:
            x_TBI = self.cell.project(x_TBI)
        if needs_grad:  # as in the chunks after the first: one program for all
            x_TBI, state = differentiable(x_TBI), tuple(map(differentiable, state))
        h_pieces = []
        ended_pieces = [None] * len(x_TBI) if ended_TB1 is None else ended_TB1.split(CHUNK)
        for x_piece, ended_piece in zip(x_TBI.split(CHUNK), ended_pieces, strict=False):
            run = self.chunk if len(x_piece) == CHUNK else unroll
            h_piece, state = run(step, x_piece, state, ended_piece)
            h_pieces.append(h_piece)
        return torch.cat(h_pieces)[:, :B], tuple(s[:B] for s in state)

    def _try(self, like_TBI: Tensor) -> None:
        """Compile on a batch of zeros, forward and backward; where that fails, do without.

        The batch has about the size that is coming, for which torch.compile shares out the work,
        but one that the cell has nowhere else, since it takes equal sizes for one and the same.
        """
        training = torch.is_grad_enabled()
        if not self.tried:
            # A copy, since torch.compile counts a function's programs and stops at eight: a grid
            # of models would share them. C++ calls one product after the other, not Python.
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
