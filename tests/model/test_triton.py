"""The Triton kernels without a GPU: their numbers by Triton's interpreter, and what they take.

pytest tests/model/test_triton.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.model.papers import CELLS


pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

ROOT = Path(__file__).parents[2]


def child(folder: Path, *arguments: str, **variables: str) -> Any:
    """In a separate process: Triton reads its mode when it is imported, and may abort."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.triton_child", *arguments],
        cwd=ROOT,
        env=os.environ | {"TRITON_CACHE_DIR": str(folder / "triton")} | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_interpreted_kernels_are_the_loop_to_float32(tmp_path: Path) -> None:
    errors = child(tmp_path, "interpret", TRITON_INTERPRET="1")
    assert set(errors) == set(CELLS)
    assert {name: error for name, error in errors.items() if not error < 2e-5} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "cells", "sizes"),
    [(arch, "lstm,gru_before,peephole,minimal,layer_norm", "64,128,256") for arch in ("80", "90")],
)
def test_kernels_keep_to_the_registers_and_memory_of_the_chip(
    arch: str, cells: str, sizes: str, tmp_path: Path
) -> None:
    kernels = child(tmp_path, "compile", arch, cells, sizes)
    assert len(kernels) == 2 * len(cells.split(",")) * len(sizes.split(","))
    for kernel in kernels:
        assert kernel["shared"] <= kernel["limit"], kernel
        assert kernel["registers"] <= 255, kernel
        # Bytes a thread, most of them before the loop.
        bound = {"64": 160, "128": 2048, "256": 2048}[kernel["kernel"].split()[-1]]
        assert kernel["spilled"] <= bound, kernel
        assert kernel["astray"] == 0, kernel
        # Numbers go between memory and the matrix units' registers without a detour; sums over
        # units take one where several programs share them.
        if not kernel["kernel"].startswith("layer_norm"):
            assert kernel["conversions"] == 0, kernel
