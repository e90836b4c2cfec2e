"""What tests/model/test_triton.py runs in a separate process; prints JSON.

python -m tests.model.triton_child interpret      with TRITON_INTERPRET=1: errors against float64
python -m tests.model.triton_child compile 90 lstm,gru_before 64,128     registers, spills, memory
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imdb_lightning import Cell
from imdb_lightning.model.backbones import Unrolled
from imdb_lightning.model.kernels.gpu import Chip, GpuLoops, Launch, launch, without_wgmma
from imdb_lightning.model.kernels.sequence import Generated
from tests.model.papers import CELLS


CHIPS = {"80": Chip(108, 163 * 1024), "90": Chip(132, 227 * 1024)}
SIZES = [(3, 9, 6, 20, True), (2, 1, 3, 1, False)]  # T, B, I, H, ragged


def results(run: Any, cell: Cell, x: Tensor, state: Any, lengths: Any) -> list[Tensor]:
    given = [tensor.detach().requires_grad_() for tensor in (x, *state)]
    h, last = run(given[0], tuple(given[1:]), lengths)
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=random, dtype=torch.float64) for o in (h, *last)]
    total = sum((w * o).sum() for w, o in zip(weights, (h, *last), strict=True))
    assert isinstance(total, Tensor)
    return [h, *last, *torch.autograd.grad(total, [*given, *cell.parameters()])]


def interpret() -> dict[str, float]:
    """The worst |result - exact| / |exact| of each cell."""
    torch.manual_seed(0)
    worst: dict[str, float] = {}
    for name, make in CELLS.items():
        for T, B, I, H, ragged in SIZES:
            cell = make(I, H)
            generated = Generated(cell, cell.states)
            loops = GpuLoops(generated.plan)
            x, state = torch.randn(T, B, I), tuple(torch.randn(B, H) for _ in range(cell.states))
            lengths = torch.randint(1, T + 1, (B,)) if ragged else None

            def run(x: Tensor, state: Any, lengths: Any) -> Any:
                return generated(cell, loops, x, state, lengths)  # noqa: B023  called at once

            found = results(run, cell, x, state, lengths)
            twin = copy.deepcopy(cell).double()
            doubles = tuple(s.double() for s in state)
            exact = results(Unrolled(twin), twin, x.double(), doubles, lengths)
            for mine, target in zip(found, exact, strict=True):
                error = ((mine - target).norm() / target.norm().clamp(min=1e-2)).item()
                worst[name] = max(worst.get(name, 0.0), error)
    return worst


def compiled(arch: str, names: list[str], sizes: list[int]) -> list[dict[str, Any]]:
    """Registers, spilled bytes and shared memory of both kernels of each cell at each size."""
    from triton.backends.nvidia.compiler import get_ptxas

    ptxas = get_ptxas(int(arch)).path
    found = []
    for name in names:
        for H in sizes:
            cell = CELLS[name.replace("_", " ")](H, H)
            loops = GpuLoops(Generated(cell, cell.states).plan)
            for which in range(2):
                for in_registers in (True, False):  # as GpuLoops does
                    at = launch(
                        *(loops.kernels[which], H, 64, False, CHIPS[arch]),
                        in_registers=in_registers,
                    )
                    kernel = compile_at(loops.function(which, at.resident), at, H, int(arch))
                    if kernel.metadata.shared <= CHIPS[arch].memory:
                        break
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, "kernel.ptx")
                    file.write_text(kernel.asm["ptx"])
                    target = re.search(r"\.target (\w+)", kernel.asm["ptx"])
                    assert target is not None
                    command = [ptxas, f"-arch={target[1]}", "-v", file, "-o"]
                    output = subprocess.run(
                        [*command, file.with_suffix(".cubin")],
                        capture_output=True,
                        text=True,
                        check=True,
                    ).stderr
                registers = re.search(r"Used (\d+) registers", output)
                spilled = re.findall(r"(\d+) bytes spill", output)
                assert registers is not None
                loop = "scf.while" if at.resident else "scf.for"
                body = kernel.asm["ttgir"].partition(loop)[2]
                found.append(
                    {
                        "kernel": f"{name} {('forward', 'backward')[which]} {H}",
                        "registers": int(registers[1]),
                        "spilled": sum(map(int, spilled)),
                        "shared": kernel.metadata.shared,
                        "limit": CHIPS[arch].memory,
                        "resident": at.resident,
                        "conversions": conversions(body),
                        "astray": astray(kernel.asm["ttgir"]),
                    }
                )
    return found


def conversions(text: str) -> int:
    """How many tiles change their order, but for what a product reads: that it does once anyway,
    and halves of it are pairs."""
    lines = [line for line in text.splitlines() if "convert_layout" in line]
    return sum(re.search(r"tensor<\d+x\d+x2xf32", line) is None for line in lines)


def astray(text: str) -> int:
    """How many reads and writes of several numbers have tiles in another order than theirs."""
    lines = [line for line in text.splitlines() if "packed_element = 4" in line]
    return sum("#mma" not in line.partition("->")[2] for line in lines)


def compile_at(function: Any, at: Launch, H: int, arch: int) -> Any:
    """A kernel as it is launched."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {
        **{"H": H, "HP": at.HP, "BN": at.BN, "NB": at.NB, "M": at.M},
        **{"NBP": 1 << (at.NB - 1).bit_length(), "PRECISION": "tf32"},
        **{"RAGGED": False, "KEEP": True, "WAY": 2, "WAY_GRAD": 2},
    }
    types = {name: argument_type(name, constants) for name in function.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(function.arg_names)
        if name not in ("T", "B", "first", *constants)
    }
    with without_wgmma():
        return triton.compile(
            ASTSource(function, types, constants, aligned),
            target=GPUTarget("cuda", arch, 32),
            options={"num_warps": at.warps, "enable_fp_fusion": True},
        )


def argument_type(name: str, constants: dict[str, Any]) -> str:
    if name in constants:
        return "constexpr"
    if name in ("T", "B", "first") or name.endswith(("_k", "_n", "_t", "_b")):
        return "i32"
    return {"lengths": "*i64", "counters": "*i32"}.get(name, "*fp32")


if __name__ == "__main__":
    if sys.argv[1] == "interpret":
        print(json.dumps(interpret()))
    else:
        cells, widths = sys.argv[3].split(","), [int(H) for H in sys.argv[4].split(",")]
        print(json.dumps(compiled(sys.argv[2], cells, widths)))
