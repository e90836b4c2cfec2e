"""A cell over whole sequences on a CPU: by generated C, by its interpreted plan, or by the loop.

Dimensions: T steps, B reviews, I input size, H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..cells import GRUCell, LSTMCell, RNNCell, State
from .first_use import ChangingCellError, check_first_use, kind_of, name_of
from .interpret import Interpreter
from .native import Native
from .sequence import Generated
from .trace import CannotGenerateError


Run = Callable[[Any, Tensor, State, Tensor | None], tuple[Tensor, State]]

TOLERANCE = 1e-3  # relative error against float64 that a first use may have

log = logging.getLogger(__name__)
warn_once = cache(log.warning)

SHARED: dict[Any, tuple[str, Run]] = {}
"""What runs the built-in cells, by their sizes and options, for all of the process.

The step of another class may depend on anything: each of its cells is traced and checked.
"""


class CpuSequence:
    """One cell on a CPU. `by` says what runs it, after its first use."""

    def __init__(self, cell: Any, unroll: Run, native: bool = True) -> None:
        """`unroll(cell, x, state, lengths)` is the reference: the loop over the cell.

        `native=False` keeps to PyTorch's operations.
        """
        self.cell = cell
        self.unroll = unroll
        self.native = native
        self.found: dict[Any, tuple[str, Run]] = {}
        self.by = ""

    def __call__(
        self, x_TBI: Tensor, state: State, lengths_B: Tensor | None
    ) -> tuple[Tensor, State]:
        """Output h_TBH of every step and the last state."""
        try:
            key = kind_of(self.cell, self.found, x_TBI.dtype)
        except ChangingCellError as error:
            warn_once(f"{name_of(self.cell)} runs step by step from now on: {error}")
            self.by = "loop"
            return self.unroll(self.cell, x_TBI, state, lengths_B)
        if key not in self.found:
            built_in = type(self.cell) in (RNNCell, LSTMCell, GRUCell)
            known = SHARED if built_in else {}
            kind = type(self.cell), self.native, key
            if kind not in known:
                with torch.inference_mode(False):  # it takes gradients, also in a test
                    known[kind] = self._choose(x_TBI)
            self.found[key] = known[kind]
        self.by, run = self.found[key]
        return run(self.cell, x_TBI, state, lengths_B)

    def _choose(self, x_TBI: Tensor) -> tuple[str, Run]:
        """The fastest way that gives the loop's results on a few random steps."""
        name = name_of(self.cell)
        try:
            generated = Generated(self.cell, self.cell.states)
        except CannotGenerateError as error:
            warn_once(f"{name} runs step by step, without generated kernels: {error}")
            return "loop", self.unroll
        ways: list[Callable[[], tuple[str, Run]]] = [partial(self._interpreted, generated)]
        if self.native and x_TBI.dtype == torch.float32:
            ways.insert(0, partial(self._compiled, generated))
        for way in ways:
            try:
                by, run = way()
                check_first_use(self.cell, run, self.unroll, x_TBI, TOLERANCE)
                return by, run
            except Exception as error:  # compilers fail in many ways
                lines = str(error).strip().splitlines() or [""]
                warn_once(f"{name} has no generated kernel: {lines[0]}")
        return "loop", self.unroll

    def _compiled(self, generated: Generated) -> tuple[str, Run]:
        return Native.name, Native(generated)

    def _interpreted(self, generated: Generated) -> tuple[str, Run]:
        loops = Interpreter(generated.plan)
        return loops.name, lambda cell, *given: generated(cell, loops, *given)
