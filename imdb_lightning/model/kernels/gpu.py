"""A plan's loops on a GPU: the kernels that emit_triton.py writes, compiled by Triton.

Dimensions: T steps, B reviews, H hidden size, P inputs, R rows, S saved groups, D gradient columns.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import library, precision
from .emit_triton import Backward, Forward, Kernel, emit
from .loops import Loops
from .plan import Plan


SPARE = 8 * 1024  # bytes of shared memory that a program needs beside matrices and state
TOGETHER = 128 * 1024
"""Bytes of the matrices that a program holds where several share the units.

Alone it holds what fits: on an H100, waiting for each other costs a step 2 us.
"""


SWITCH = "DISABLE_MMA_V3"  # of Triton's compiler


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
    resident: int  # blocks of matrices that are in registers, rather than in shared memory


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
def launch(
    kernel: Kernel,
    H: int,
    B: int,
    exact: bool,
    chip: Chip,
    most: int = 32,
    in_registers: bool = True,
) -> Launch:
    """The blocks for a kernel, of `most` reviews. Raises TooLargeError.

    `exact`: products in three parts, which take twice the room.
    `in_registers`: a program that has all units may keep matrices in registers.
    """
    room = chip.memory - SPARE
    HP = max(16, 1 << (H - 1).bit_length())
    size = 8 if exact else 4
    matrices = max(1, len(kernel.blocks)) * HP
    state = len(kernel.multiplied) * HP

    def warps(BN: int) -> int:
        return 8 if BN > 64 else 4

    def resident(BN: int, M: int) -> int:
        if exact or BN < HP or not in_registers:
            return 0
        return min(len(kernel.blocks), fit_in_registers(HP, BN, M, warps(BN)))

    def taken(BN: int, M: int) -> int:
        return (matrices * BN - resident(BN, M) * HP * BN + state * M) * size

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
    return Launch(HP, BN, NB, M, groups, warps(BN), resident(BN, M))


def fit_in_registers(HP: int, BN: int, M: int, warps: int) -> int:
    """How many matrices fit into a thread's registers, beside its part of a step's tiles."""
    # As Triton splits a tile: each warp has 16 units and 8 reviews, or a multiple.
    units, reviews = -(-BN // 16), M // 8
    for _ in range(warps.bit_length() - 1):
        if units >= reviews:
            units = max(1, units // 2)
        else:
            reviews //= 2
    return max(0, 240 - 24 * 4 * units * reviews) // (units * HP // 2)


class GpuLoops(Loops):
    """The two loops over time of one plan, in float32."""

    name = "Triton"

    def __init__(self, plan: Plan) -> None:
        """Raises ImportError where Triton is not there."""
        self.plan = plan
        importlib.import_module("triton")
        self.functions: dict[tuple[int, int], Any] = {}
        self.kernels = (Forward(plan), Backward(plan))
        self.most = [32, 32]  # reviews of a program
        self.in_registers = [True, True]

    def forward(
        self,
        inputs_TBPH: Tensor,
        rows_RH: Tensor,
        constants: Sequence[Tensor],
        states: Sequence[Tensor],
        lengths_B: Tensor | None,
        saved: Tensor | None,
    ) -> None:
        """As Interpreter.forward."""
        keep = saved is not None
        self._run(
            0,
            [inputs_TBPH, rows_RH, *states, saved if keep else inputs_TBPH],
            constants,
            lengths_B,
            states[0].shape[0] - 1,
            states[0],
            keep,
        )

    def new_saved(self, like: Tensor, T: int, B: int, H: int) -> Tensor:
        """Pairs of reviews, then units: (T, S, pairs, H, 2), where H is even."""
        return like.new_empty(T, len(self.plan.saved), (B + 1) // 2, H + H % 2, 2)

    def saved_group(self, saved: Tensor, s: int, B: int, H: int) -> Tensor:
        """As Loops.saved_group."""
        group_TBH = saved[:, s].transpose(2, 3).flatten(1, 2)
        return group_TBH[:, :B, :H].flatten(0, 1)

    def backward(
        self,
        rows_RH: Tensor,
        constants: Sequence[Tensor],
        states: Sequence[Tensor],
        lengths_B: Tensor | None,
        saved: Tensor,
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
        pointers = [grad_h_TBH, *steps, rows_RH, *states, *last, *first, saved, columns_TBDH]
        pairs = grad_h_TBH.data_ptr() % 8 == 0 and all(step % 2 == 0 for step in steps)
        self._run(1, pointers, constants, lengths_B, len(grad_h_TBH), states[0], True, pairs)
        return first

    def function(self, which: int, resident: int) -> Any:
        """The kernel `which` in Triton's language, with `resident` blocks in registers."""
        key = which, resident
        if key not in self.functions:
            way = (Forward, Backward)[which]
            source = emit(way(self.plan, resident))
            self.functions[key] = getattr(module(source), way.__name__.lower())
        return self.functions[key]

    def _run(
        self,
        which: int,
        pointers: Sequence[Any],
        constants: Sequence[Tensor],
        lengths_B: Tensor | None,
        T: int,
        like: Tensor,
        keep: bool,
        pairs: bool = False,
    ) -> None:
        """`pairs`: the gradient of the outputs may be read two numbers at a time."""
        from triton.runtime.errors import OutOfResources

        kernel = self.kernels[which]
        _, B, H = like.shape
        exact = not precision.is_tf32()
        device = like.device
        matrices = [c for i in kernel.matrices for c in (constants[i], *constants[i].stride())]
        on_device = torch.cuda.device(device) if like.is_cuda else nullcontext()
        at_hand = chip(device.index) if like.is_cuda else H100
        while True:
            at = launch(kernel, H, B, exact, at_hand, self.most[which], self.in_registers[which])
            parts = -(-B // at.M)
            exchange = counters = like  # not read where one program has all units
            if at.NB > 1:
                exchange = like.new_empty(2, len(kernel.slots), B, H)
                counters = torch.zeros(parts * 32, dtype=torch.int32, device=device)
            lengths = like if lengths_B is None else lengths_B
            function = self.function(which, at.resident)
            way = 0  # how numbers are read and written: see load_ in emit_triton.py
            if like.is_cuda and torch.version.hip is None and kernel.blocks:
                way = 1 if H % 2 else 2
            options: dict[str, Any] = {"num_warps": at.warps, "enable_fp_fusion": True}
            if at.NB > 1 and like.is_cuda:
                options["launch_cooperative_grid"] = True
            try:
                with on_device, without_wgmma():
                    for first in range(0, parts, at.groups):
                        function[(min(at.groups, parts - first), at.NB)](
                            *pointers,
                            *matrices,
                            *(lengths, exchange, counters, T, B, first * at.M),
                            *(H, at.HP, at.BN, at.NB, 1 << (at.NB - 1).bit_length(), at.M),
                            PRECISION="tf32x3" if exact else "tf32",
                            RAGGED=lengths_B is not None,
                            KEEP=keep,
                            WAY=way,
                            WAY_GRAD=way if pairs else min(way, 1),
                            **options,
                        )
                return
            except OutOfResources:  # before anything has run: a smaller program may fit
                if at.M > 8:
                    self.most[which] = at.M // 2
                elif at.resident:  # on their way to registers they take shared memory
                    self.in_registers[which] = False
                else:
                    raise


@contextmanager
def without_wgmma() -> Iterator[None]:
    """Triton compiles for the matrix instructions of a warp, also where Hopper's wgmma exists.

    Those take matrices from shared memory, and wait for every load that is under way.
    """
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


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
