"""A function of tensors as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Captured:
    """The graph of `run(*tensors)`; on a CPU, for tests, the function itself."""

    def __init__(
        self, run: Callable[..., list[Tensor]], tensors: Sequence[Tensor], pool: Any = None
    ) -> None:
        """`pool`: of another graph, to share its memory with. Raises RuntimeError."""
        self.run = run
        self.inputs = [tensor.clone() for tensor in tensors]
        self.turn = 0  # counts the calls
        self.pool = pool
        self.graph: Any = None
        self.results: list[Tensor] = []
        if not self.inputs[0].is_cuda:
            return
        # Random numbers are drawn where the graph is replayed, not here: a run that resumes
        # captures at other steps than one that goes through.
        random = torch.cuda.get_rng_state()
        current = torch.cuda.current_stream()
        try:
            side = torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):  # libraries that are started here are not captured
                run(*self.inputs)
            current.wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.results = run(*self.inputs)
            self.pool = self.graph.pool()
        finally:
            torch.cuda.set_stream(current)  # a capture that fails leaves its own
            torch.cuda.set_rng_state(random)

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The results, good until the next call. Smaller tensors are padded with zeros."""
        for mine, given in zip(self.inputs, tensors, strict=True):
            if mine.shape != given.shape:
                mine.zero_()
                mine = mine[tuple(slice(size) for size in given.shape)]
            mine.copy_(given)
        self.turn += 1
        if self.graph is None:
            self.results = self.run(*self.inputs)
        else:
            self.graph.replay()
        return self.results
