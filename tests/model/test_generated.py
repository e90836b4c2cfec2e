"""Kernels that are generated from a cell's step, against the loop over the cell.

pytest tests/model/test_generated.py
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from imdb_lightning import Cell
from imdb_lightning.model.backbones import Unrolled
from imdb_lightning.model.cells import State
from imdb_lightning.model.kernels.interpret import Interpreter
from imdb_lightning.model.kernels.sequence import Generated
from imdb_lightning.model.kernels.trace import CannotGenerateError
from tests.model.papers import CELLS, HighwayCell
from tests.model.test_fused import everything, inputs


SIZES = [(7, 5, 5, 8), (4, 3, 6, 6), (3, 1, 3, 1), (5, 2, 1, 17)]  # T, B, I, H


def generated(cell: Cell) -> Callable[..., tuple[Tensor, State]]:
    made = Generated(cell, cell.states)
    loops = Interpreter(made.plan)

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(
            self, x: Tensor, state: State, lengths: Tensor | None
        ) -> tuple[Tensor, State]:
            return made(self.cell, loops, x, state, lengths)

    return Layer()


@pytest.mark.parametrize(
    ("name", "sizes", "ragged"), list(product(CELLS, SIZES, (False, True))), ids=str
)
def test_the_interpreted_plan_is_the_loop(
    name: str, sizes: tuple[int, int, int, int], ragged: bool
) -> None:
    torch.manual_seed(0)
    T, B, I, H = sizes
    cell = CELLS[name](I, H).double()
    x, state, lengths = inputs(cell, T, B, ragged, torch.float64)
    found = everything(generated(cell), x, state, lengths)
    expected = everything(Unrolled(cell), x, state, lengths)
    for mine, target in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-9, atol=1e-11)
