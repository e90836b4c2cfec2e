"""Compiled cells against the loop: the same results, one program for all lengths and batches.

pytest tests/model/test_compiled.py            one cell, in short chunks of steps
pytest tests/model/test_compiled.py -m slow    all of them
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import linear

from imdb_lightning import Cell
from imdb_lightning.model import compiled
from imdb_lightning.model.backbones import Unrolled
from imdb_lightning.model.cells import State
from imdb_lightning.model.compiled import Compiled
from imdb_lightning.runs.run import Run
from imdb_lightning.train import train
from tests.conftest import TINY, command, composed
from tests.model.test_fused import CELLS, everything, inputs


class Unseen(Cell):
    """A cell that the package does not know, whose input enters in another way."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=1)

    def forward(self, x_BI: torch.Tensor, state: State) -> State:
        (h_BH,) = state
        x_BH = linear(x_BI, self.weight_ih, self.bias_ih)
        return (torch.tanh(x_BH * torch.sigmoid(linear(h_BH, self.weight_hh, self.bias_hh))),)


compiles = pytest.mark.skipif(
    " " in torch.__file__, reason="torch.compile cannot: PyTorch is in a folder with a space"
)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seconds to compile instead of half a minute, and no program of an earlier test."""
    monkeypatch.setattr(compiled, "CHUNK", 3)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("name", ["unseen", *CELLS])
def test_it_is_the_loop_and_compiles_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    cell = (CELLS | {"unseen": Unseen})[name](5, 4).double()
    layer, loop = Compiled(cell), Unrolled(cell)
    programs = []
    for T, B in ((9, 6), (7, 6), (8, 3), (3, 1), (2, 9)):
        x, state, _ = inputs(cell, T, B, False, torch.float64)
        found, expected = everything(layer, x, state, None), everything(loop, x, state, None)
        for mine, target in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, target, rtol=1e-11, atol=1e-12)
        programs.append(counters["stats"]["unique_graphs"])
    assert [r.message for r in caplog.records if r.name.startswith("imdb_lightning")] == []
    assert len(set(programs)) == 1
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x, state)[0], layer(x, state)[0])


@compiles
@pytest.mark.slow
def test_a_frozen_cell_is_compiled_and_takes_no_gradient(caplog: pytest.LogCaptureFixture) -> None:
    cell = CELLS["rnn"](5, 4).requires_grad_(False)
    h, _ = Compiled(cell)(torch.randn(3, 6, 5))
    assert not h.requires_grad
    assert [r.message for r in caplog.records if r.name.startswith("imdb_lightning")] == []


@compiles
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile hides it (2026-11)
@pytest.mark.parametrize("name", CELLS)
def test_ragged_lengths_are_those_of_the_loop(name: str) -> None:
    torch.manual_seed(1)
    cell = CELLS[name](5, 4).double()
    x, state, lengths = inputs(cell, 7, 6, True, torch.float64)
    found = everything(Compiled(cell), x, state, lengths)
    expected = everything(Unrolled(cell), x, state, lengths)
    for mine, target in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_a_cell_that_does_not_compile_is_unrolled_with_one_warning(
    tmp_path: Path,
) -> None:
    overrides = [*TINY, "model=custom_rnn", "trainer.max_epochs=1"]
    options = [*overrides, "model.implementation=compile", "hydra.run.dir=run"]
    done = command(tmp_path, *options, CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "not compiled" in line]
    assert line.startswith("RNNCell is unrolled, not compiled: ")
    loop = train(composed(*overrides, "model.implementation=loop"), tmp_path / "loop")
    assert Run(tmp_path / "run").metrics["test/loss"] == pytest.approx(loop["test/loss"], rel=1e-5)
