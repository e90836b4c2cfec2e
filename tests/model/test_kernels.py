"""The C kernels: how exact their activations are, and how they come to be built and loaded.

pytest tests/model/test_kernels.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from imdb_lightning import GRUCell, RNNCell
from imdb_lightning.model.fused import Fused
from imdb_lightning.model.kernels import library
from tests.conftest import TINY, command, environment


pytestmark = pytest.mark.skipif(not library.can_compile(), reason="no C compiler here")

SIZES = torch.logspace(-35, 2.5, 40_000)
VALUES = torch.cat([-SIZES, torch.zeros(1), SIZES])


def natively(cell: RNNCell | GRUCell, x: Tensor, h: float) -> Tensor:
    """One step from state h, each value as a separate review."""
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.weight_ih[-2 if isinstance(cell, GRUCell) else -1] = 1  # of a GRU's gates: z
        out, _ = Fused(cell)(x.view(1, -1, 1), (torch.full((len(x), 1), h),))
    return out.flatten()


def test_tanh_is_exact_to_float32() -> None:
    """At most 4 units in the last place, near zero too."""
    found = natively(RNNCell(1, 1), VALUES, 0.0).double()
    exact = VALUES.double().tanh()
    normal = exact.abs() > 1e-36  # below, denormals may be flushed
    assert ((found - exact).abs() <= 4 * 2**-23 * exact.abs())[normal].all()
    assert (found.abs() <= 1).all()


def test_sigmoid_is_exact_to_float32() -> None:
    """A GRU with state 1 and candidate tanh(0) gives its update gate."""
    found = natively(GRUCell(1, 1, reset="after"), VALUES, 1.0).double()
    exact = VALUES.double().sigmoid()
    normal = exact > 1e-36
    assert ((found - exact).abs() <= 4 * 2**-23 * exact)[normal].all()
    assert (found[~normal] < 1e-36).all()


def test_nan_stays_nan() -> None:
    found = natively(RNNCell(1, 1), torch.tensor([torch.nan, torch.inf, -torch.inf]), 0.0)
    assert found[0].isnan()
    assert found[1:].tolist() == [1.0, -1.0]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache, and a library that is not loaded yet; gives the kernels' folder."""
    monkeypatch.setenv("IMDB_LIGHTNING_CACHE", str(tmp_path / "cache"))
    library.load.cache_clear()
    yield tmp_path / "cache" / "kernels"
    library.load.cache_clear()


def test_it_is_built_once_and_kept(fresh: Path) -> None:
    assert library.can_compile()
    (kept,) = fresh.iterdir()
    made = kept.stat().st_mtime_ns
    library.load.cache_clear()
    assert library.can_compile()
    assert [(file, file.stat().st_mtime_ns) for file in fresh.iterdir()] == [(kept, made)]


def test_source_compiler_and_processor_are_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, source = library.find_compiler(), "long lanes(void) { return 8; }"
    names = [library.key(compiler, source), library.key([*compiler, "-g"], source)]
    names.append(library.key(compiler, f"{source}\n"))
    monkeypatch.setattr(library, "processor", lambda: "another")
    names.append(library.key(compiler, source))
    assert len(set(names)) == 4


def test_a_corrupt_file_is_rebuilt(fresh: Path) -> None:
    library.can_compile()
    (kept,) = fresh.iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # in place it would change the library that is loaded
    kept.write_bytes(whole[:100])
    library.load.cache_clear()
    assert library.can_compile()
    assert kept.stat().st_size == len(whole)


LOAD = "from imdb_lightning.model.kernels import library; assert library.can_compile()"


@pytest.mark.slow
def test_several_processes_may_start_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", LOAD], env=environment(tmp_path)) for _ in range(4)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_done_without(fresh: Path) -> None:
    fresh.parent.mkdir()
    fresh.parent.chmod(0o500)
    assert library.can_compile()


@pytest.mark.parametrize(
    ("compiler", "expected"),
    [
        ("no-such-compiler", "there is no C compiler"),
        pytest.param("false", "false", marks=pytest.mark.slow),
    ],
)
def test_without_a_compiler_cells_train_after_one_warning(
    compiler: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    done = command(tmp_path, *TINY, "model=custom_gru", "model.num_layers=2")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "compiled kernels" in line]
    assert line.startswith("cells run by PyTorch's operations, without compiled kernels: ")
    assert expected in line


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_thread_pool_is_torchs(tmp_path: Path) -> None:
    code = f"{LOAD}; print(open('/proc/self/maps').read())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True
    )
    pools = {line.split()[-1] for line in done.stdout.splitlines() if "gomp" in line}
    assert len(pools) == 1, done.stderr
