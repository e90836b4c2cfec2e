"""A function of tensors as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
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
        self.turn = 0  # counts the calls
        self.pool = pool
        self.graph: Any = None
        self.results: list[Tensor] = []
        with_grad = torch.is_grad_enabled()
        # Tensors of inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.set_grad_enabled(with_grad):
            self.inputs = [tensor.clone() for tensor in tensors]
            if self.inputs[0].is_cuda:
                with torch.cuda.device(self.inputs[0].device):
                    self._capture()
            else:
                with torch.random.fork_rng(devices=[]):
                    run(*self.inputs)

    def _capture(self) -> None:
        # Random numbers are drawn where the graph is replayed, not here: a run that resumes
        # captures at other steps than one that goes through.
        random = torch.cuda.get_rng_state()
        current = torch.cuda.current_stream()
        side = side_stream(torch.cuda.current_device())
        try:
            side.wait_stream(current)
            with torch.cuda.stream(side):  # libraries that are started here are not captured
                self.run(*self.inputs)
            current.wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                self.graph, pool=self.pool, stream=side, capture_error_mode="thread_local"
            ):
                self.results = self.run(*self.inputs)
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


@cache
def side_stream(device: int) -> torch.cuda.Stream:
    """One for all captures: PyTorch keeps a workspace of cuBLAS for each stream."""
    return torch.cuda.Stream(device)
