"""Cost per token and peak memory as the batch, the reviews and the layer grow.

Dimensions: T steps, B reviews, I input size, H hidden size.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..runtime import process
from .layers import run_both, variants
from .timing import interleaved, own_process, table


SIZES = [  # (T, B, H); input 64
    *((T, 64, 64) for T in (100, 200, 400, 800)),
    *((200, B, 64) for B in (16, 32, 64, 128, 256, 512)),
    *((200, 64, H) for H in (32, 64, 128, 256)),
]
INPUT = 64


def scaling(names: list[str], threads: int, rounds: int) -> dict[str, Any]:
    """Print and return nanoseconds per token, forward and backward, and MiB at the peak.

    The peak is that of a process which runs this layer alone, above the same process before it.
    """
    found, rows = [], []
    head = ["cell T B H", "fused ns", "torch ns", "faster by", "fused MiB", "torch MiB"]
    for name in names:
        for T, B, H in dict.fromkeys(SIZES):
            with own_process() as one:
                nanoseconds = one.submit(cost, name, T, B, H, threads, rounds).result()
            memory = {}
            for kind in nanoseconds:
                with own_process() as one:
                    memory[kind] = one.submit(peak, name, kind, T, B, H, threads).result()
            found.append(
                {"cell": name, "T": T, "B": B, "H": H, "ns_per_token": nanoseconds, "MiB": memory}
            )
            fused, torchs = nanoseconds["fused C"], nanoseconds.get("torch")
            rows.append(
                [
                    f"{name} {T} {B} {H}",
                    f"{fused:.0f}",
                    f"{torchs:.0f}" if torchs else "",
                    f"{torchs / fused:.2f}x" if torchs else "",
                    mebibytes(memory["fused C"]),
                    mebibytes(memory.get("torch")),
                ]
            )
            print("  ".join(rows[-1]), flush=True)  # minutes pass until the table
    print(f"\nper token, forward and backward, input {INPUT}; medians of {rounds}")
    print(table(head, rows))
    return {"input": INPUT, "rounds": rounds, "sizes": found}


def mebibytes(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def cost(name: str, T: int, B: int, H: int, threads: int, rounds: int) -> dict[str, float]:
    """Nanoseconds per token of the generated kernels and of PyTorch's layer, timed in turn."""
    process.configure()
    torch.set_num_threads(threads)
    x_TBI, grad_TBH = torch.randn(T, B, INPUT), torch.randn(T, B, H)
    layers = chosen(name, H)
    times = interleaved(
        {kind: partial(run_both, layer, x_TBI, grad_TBH) for kind, layer in layers.items()},
        rounds,
    )
    return {kind: taken.median * 1e6 / (T * B) for kind, taken in times.items()}


def peak(name: str, kind: str, T: int, B: int, H: int, threads: int) -> float | None:
    """MiB that forward and backward add to this process at most; None but on Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    process.configure()
    torch.set_num_threads(threads)
    layer = chosen(name, H)[kind]
    run_both(layer, torch.randn(2, 2, INPUT), torch.randn(2, 2, H))
    x_TBI, grad_TBH = torch.randn(T, B, INPUT), torch.randn(T, B, H)
    before = memory_of_process("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    for _ in range(3):
        run_both(layer, x_TBI, grad_TBH)
    return memory_of_process("VmHWM") - before


def memory_of_process(which: str) -> float:
    """MiB in use ("VmRSS") or at the peak since it was last reset ("VmHWM")."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{which}:")]
    return int(line.split()[1]) / 2**10


def chosen(name: str, H: int) -> dict[str, torch.nn.Module]:
    kinds = variants(name, INPUT, H)
    return {kind: layer for kind, layer in kinds.items() if kind in ("fused C", "torch")}
