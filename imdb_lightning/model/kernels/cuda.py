"""A cell over whole sequences on a GPU: by cuDNN, by generated kernels, or by CUDA graphs.

Dimensions: T steps, B reviews, I input size, H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..cells import State
from . import precision, vendor
from .first_use import ChangingCellError, check_first_use, kind_of, name_of
from .gpu import GpuLoops
from .graphs import GraphedLoops
from .sequence import Generated
from .trace import CannotGenerateError


find_spec = cache(find_spec)

log = logging.getLogger(__name__)
warn_once = cache(log.warning)

# Relative errors against float64 that a first use may have: of norms, over a few steps.
TOLERANCE = {"exact": 1e-3, "tf32": 5e-2}


WAYS = ("cuDNN", "Triton", "CUDA graphs")  # the fastest first; what none can do is the loop's


class CudaSequence:
    """One cell on a GPU. `by` says what runs it, after its first use."""

    def __init__(
        self,
        cell: Any,
        unroll: Callable[..., tuple[Tensor, State]],
        ways: tuple[str, ...] = WAYS,
    ) -> None:
        """`unroll(cell, x, state, lengths)` is the reference: the loop over the cell."""
        self.cell = cell
        self.unroll = unroll
        self.ways = ways
        self.found: dict[Any, tuple[Generated, Any] | None] = {}
        self.by = ""

    def __call__(
        self, x_TBI: Tensor, state: State, lengths_B: Tensor | None
    ) -> tuple[Tensor, State]:
        """Output h_TBH of every step and the last state; all tensors are on the GPU."""
        H = self.cell.hidden_size
        mode = vendor.mode_of(self.cell) if "cuDNN" in self.ways and lengths_B is None else None
        # Where Triton is no other way, cuDNN need not be the faster one.
        alone = "Triton" not in self.ways or find_spec("triton") is None
        if mode is not None and vendor.can(x_TBI) and (alone or vendor.is_faster(mode, x_TBI, H)):
            self.by = "cuDNN"
            return vendor.run(mode, self.cell, x_TBI, state)
        try:
            key = kind_of(self.cell, self.found, x_TBI.dtype, precision.is_tf32())
        except ChangingCellError as error:
            warn_once(f"{name_of(self.cell)} runs step by step from now on: {error}")
            self.by = "loop"
            return self.unroll(self.cell, x_TBI, state, lengths_B)
        if key not in self.found:
            with torch.inference_mode(
                False
            ):  # it takes gradients, also where the first use is a test
                self.found[key] = self._choose(x_TBI)
        choice = self.found[key]
        if choice is None:
            self.by = "loop"
            return self.unroll(self.cell, x_TBI, state, lengths_B)
        generated, loops = choice
        self.by = loops.name
        return generated(self.cell, loops, x_TBI, state, lengths_B)

    def _choose(self, x_TBI: Tensor) -> tuple[Generated, Any] | None:
        """The fastest way that gives the loop's results on a few random steps."""
        name = name_of(self.cell)
        try:
            generated = Generated(self.cell, self.cell.states)
        except CannotGenerateError as error:
            warn_once(f"{name} runs step by step, without generated kernels: {error}")
            return None
        ways: list[Any] = []
        if "Triton" in self.ways and x_TBI.dtype == torch.float32:
            ways.append(GpuLoops)
        if "CUDA graphs" in self.ways:
            ways.append(GraphedLoops)
        for way in ways:
            try:
                loops = way(generated.plan)
                check_first_use(
                    self.cell,
                    lambda cell, *given, by=loops: generated(cell, by, *given),
                    self.unroll,
                    x_TBI,
                    TOLERANCE["tf32" if precision.is_tf32() else "exact"],
                )
                return generated, loops
            except ImportError:
                warn_once("Triton is not installed: cells run under CUDA graphs, which is slower")
            except Exception as error:  # compilers and drivers fail in many ways
                lines = str(error).strip().splitlines() or [""]
                reason = f"{type(error).__name__}: {lines[0]}"
                warn_once(f"{name} cannot be run by {way.name}: {reason}")
        return None
