"""A plan's loops on a GPU: the kernels that emit_triton.py writes, compiled by Triton.

Dimensions: T steps, B reviews, H hidden size, P inputs, R rows, S saved groups, D gradient columns.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import library, precision
from .emit_triton import Backward, Forward, Kernel, emit
from .plan import Plan


SPARE = 8 * 1024  # bytes of shared memory that a program needs beside matrices and state
TOGETHER = 128 * 1024
"""Bytes of the matrices that a program holds where several share the units.

Alone it holds what fits: on an H100, waiting for each other costs a step 2 us.
"""


class TooLargeError(ValueError):
    """The matrices of a step do not fit on the chip."""


class Launch(NamedTuple):
    """How a kernel is started; the fields with the names of its constants."""

    HP: int  # hidden size as a power of two
    BN: int  # units of a program
    NB: int  # programs that share the units
    M: int  # reviews of a program
    groups: int  # of reviews that run at once
    warps: int


class Chip(NamedTuple):
    """What of a GPU the size of a program depends on."""

    processors: int
    memory: int  # bytes of shared memory that a program may take


H100 = Chip(132, 227 * 1024)


@cache
def chip(index: int) -> Chip:
    found: Any = torch.cuda.get_device_properties(index)
    return Chip(found.multi_processor_count, found.shared_memory_per_block_optin)


@cache
def launch(kernel: Kernel, H: int, B: int, exact: bool, chip: Chip, most: int = 32) -> Launch:
    """The blocks for a kernel, of `most` reviews. Raises TooLargeError.

    `exact`: products in three parts, which take twice the room.
    """
    room = chip.memory - SPARE
    HP = max(16, 1 << (H - 1).bit_length())
    size = 8 if exact else 4
    matrices = max(1, len(kernel.blocks)) * HP
    state = len(kernel.multiplied) * HP

    def taken(BN: int, M: int) -> int:
        return (matrices * BN + state * M) * size

    BN = HP
    if taken(HP, 8) > room:
        while BN > 16 and (matrices * BN * size > TOGETHER or taken(BN, 8) > room):
            BN //= 2
    NB = -(-H // BN)
    groups = chip.processors // NB  # that can run at once, one program a multiprocessor
    fitting = [M for M in (8, 16, 32) if taken(BN, M) <= room]
    fitting = [M for M in fitting if M <= most]
    if not fitting or groups == 0:
        raise TooLargeError(f"{len(kernel.blocks)} matrices of {H} x {H} do not fit on the GPU")
    M = min(fitting, key=lambda M: (-(-B // (M * groups)), M))
    return Launch(HP, BN, NB, M, groups, 8 if BN > 64 else 4)


class GpuLoops:
    """The two loops over time of one plan, in float32."""

    name = "Triton"

    def __init__(self, plan: Plan) -> None:
        """Raises ImportError where Triton is not there."""
        self.plan = plan
        self.module = module(emit(plan))
        self.kernels = (Forward(plan), Backward(plan))
        self.most = [32, 32]  # reviews of a program

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
        saved = inputs_TBPH if saved_TBSH is None else saved_TBSH
        self._run(
            0,
            [inputs_TBPH, rows_RH, *states, saved],
            constants,
            lengths_B,
            states[0].shape[0] - 1,
            states[0],
            saved_TBSH is not None,
        )

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
        if grad_h_TBH.stride(2) != 1:
            grad_h_TBH = grad_h_TBH.contiguous()
        first = [torch.empty_like(states[0][0]) for _ in states]
        steps = grad_h_TBH.stride()[:2]
        last = [grad.contiguous() for grad in grads]
        pointers = [grad_h_TBH, *steps, rows_RH, *states, *last, *first, saved_TBSH, columns_TBDH]
        self._run(1, pointers, constants, lengths_B, len(grad_h_TBH), states[0], True)
        return first

    def _run(
        self,
        which: int,
        pointers: Sequence[Any],
        constants: Sequence[Tensor],
        lengths_B: Tensor | None,
        T: int,
        like: Tensor,
        keep: bool,
    ) -> None:
        from triton.runtime.errors import OutOfResources

        kernel = self.kernels[which]
        _, B, H = like.shape
        exact = not precision.is_tf32()
        device = like.device
        matrices = [c for i in kernel.matrices for c in (constants[i], *constants[i].stride())]
        on_device = torch.cuda.device(device) if like.is_cuda else nullcontext()
        at_hand = chip(device.index) if like.is_cuda else H100
        while True:
            at = launch(kernel, H, B, exact, at_hand, self.most[which])
            parts = -(-B // at.M)
            exchange = counters = like  # not read where one program has all units
            if at.NB > 1:
                exchange = like.new_empty(2, len(kernel.slots), B, H)
                counters = torch.zeros(parts * 32, dtype=torch.int32, device=device)
            lengths = like if lengths_B is None else lengths_B
            function = (self.module.forward, self.module.backward)[which]
            options: dict[str, Any] = {"num_warps": at.warps, "enable_fp_fusion": True}
            if at.NB > 1 and like.is_cuda:
                options["launch_cooperative_grid"] = True
            try:
                with on_device:
                    for first in range(0, parts, at.groups):
                        function[(min(at.groups, parts - first), at.NB)](
                            *pointers,
                            *matrices,
                            *(lengths, exchange, counters, T, B, first * at.M),
                            *(H, at.HP, at.BN, at.NB, 1 << (at.NB - 1).bit_length(), at.M),
                            PRECISION="tf32x3" if exact else "tf32",
                            RAGGED=lengths_B is not None,
                            KEEP=keep,
                            DIRECT=like.is_cuda and torch.version.hip is None,
                            **options,
                        )
                return
            except OutOfResources:  # before anything has run: a program of fewer reviews may fit
                if at.M == 8:
                    raise
                self.most[which] = at.M // 2


@cache
def module(source: str) -> Any:
    """The source as a module. Triton reads functions from files: it is kept as one per user."""
    name = f"imdb_lightning_{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    try:
        folder = library.private_folder()
        path = folder / f"{name}.py"
        if not (path.exists() and library.is_mine(path) and path.read_text("utf-8") == source):
            _write(path, source)
    except OSError:  # a cache that is not to be written: for this process alone
        path = Path(tempfile.mkdtemp(prefix="imdb_lightning-")) / f"{name}.py"
        _write(path, source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _write(path: Path, source: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".py")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(source)
    os.replace(temporary, path)
