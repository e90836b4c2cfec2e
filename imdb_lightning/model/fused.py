"""A cell over whole sequences, forward and backward, without autograd inside.

What runs is made from the cell's own step: kernels/trace.py records it, and its gradient by
PyTorch's rules. Only what depends on the previous state has to be computed step by step: the
gradients of the weights are sums over several steps at once.

Dimensions: T steps, B reviews, I input size, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .backbones import Unrolled
from .cells import Cell, State


class Fused(nn.Module):
    """One cell over time, with the calling convention of `Unrolled`, by the fastest way there is.

    kernels/cpu.py and kernels/cuda.py choose it, or say in one line why the cell runs as a loop.
    """

    def __init__(self, cell: Cell, native: bool = True) -> None:
        """`native=False` keeps to PyTorch's operations on a CPU."""
        super().__init__()
        self.cell = cell
        self.native = native
        self.on_gpu: Any = None  # made where they are needed: they import a tracer
        self.on_cpu: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the kernels, which no file and no other process can hold."""
        return {**super().__getstate__(), "on_gpu": None, "on_cpu": None}

    def forward(
        self, x_TBI: Tensor, state: State | None = None, lengths_B: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Output h_TBH of every step and the state after the last; without a state, from zeros.

        With `lengths_B` (int64 steps, 1 to T) a review's state stays as it is after its own last
        step: so do its outputs, and what stands in x after that is never read. The computation is
        in the type of the weights, under autocast too. Gradients have no gradients: asking for
        them raises RuntimeError. Raises ValueError where shapes do not fit the cell.
        """
        cell = self.cell
        if state is None:
            state = cell.initial_state(x_TBI.shape[1])
        self._check(x_TBI, state, lengths_B)
        dtype = next(cell.parameters()).dtype
        with torch.autocast(x_TBI.device.type, enabled=False):
            x_TBI, *first = (tensor.to(dtype).contiguous() for tensor in (x_TBI, *state))
            if lengths_B is not None:
                lengths_B = lengths_B.to(x_TBI.device, torch.int64).contiguous()
            if x_TBI.is_cuda:
                return self._on_gpu(x_TBI, tuple(first), lengths_B)
            return self._on_cpu(x_TBI, tuple(first), lengths_B)

    def _on_gpu(
        self, x_TBI: Tensor, state: State, lengths_B: Tensor | None
    ) -> tuple[Tensor, State]:
        if self.on_gpu is None:
            from .kernels.cuda import CudaSequence

            self.on_gpu = CudaSequence(self.cell, unrolled)
        return self.on_gpu(x_TBI, state, lengths_B)

    def _on_cpu(
        self, x_TBI: Tensor, state: State, lengths_B: Tensor | None
    ) -> tuple[Tensor, State]:
        if self.on_cpu is None:
            from .kernels.cpu import CpuSequence

            self.on_cpu = CpuSequence(self.cell, unrolled, self.native)
        return self.on_cpu(x_TBI, state, lengths_B)

    def _check(self, x_TBI: Tensor, state: State, lengths_B: Tensor | None) -> None:
        """The kernels take addresses: nothing after this looks at sizes again."""
        T, B, I = x_TBI.shape
        cell = self.cell
        if T == 0 or I != cell.input_size:
            shape = tuple(x_TBI.shape)
            raise ValueError(f"x is {shape}; it is (T, B, {cell.input_size}) with one step or more")
        if [tuple(s.shape) for s in state] != [(B, cell.hidden_size)] * cell.states:
            shapes = [tuple(s.shape) for s in state]
            raise ValueError(f"the state is {shapes}, not {cell.states} of {(B, cell.hidden_size)}")
        if lengths_B is not None and lengths_B.shape != (B,):
            raise ValueError(f"lengths are {tuple(lengths_B.shape)}, not ({B},)")


def unrolled(
    cell: Cell, x_TBI: Tensor, state: State, lengths_B: Tensor | None
) -> tuple[Tensor, State]:
    return Unrolled(cell)(x_TBI, state, lengths_B)
