"""C that is generated from a cell's step: as exact as the loop in float32.

pytest tests/model/test_native.py
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from imdb_lightning import Cell
from imdb_lightning.model.backbones import Unrolled
from imdb_lightning.model.cells import State
from imdb_lightning.model.kernels import library
from imdb_lightning.model.kernels.native import Native
from imdb_lightning.model.kernels.plan import plan
from imdb_lightning.model.kernels.schedule import Backward, Forward, arrange, runs
from imdb_lightning.model.kernels.sequence import Generated
from tests.model.papers import CELLS, HighwayCell
from tests.model.test_fused import everything, inputs


needs_a_compiler = pytest.mark.skipif(not library.can_compile(), reason="no C compiler here")

# Groups that a step leaves for its gradient, and columns of the gradient: those of kernels that
# were written by hand.
BY_HAND = {"rnn": (1, 1), "lstm": (5, 4), "gru after": (4, 4), "gru before": (3, 3)}
# Cells of which every kind of node is one; the others take as long to compile, and are slow.
DEFAULT = ("rnn", "lstm", "gru after", "gru before", "peephole", "layer norm", "chained")
SIZES = [  # T, B, I, H
    (7, 5, 5, 8),
    *(
        pytest.param(sizes, marks=pytest.mark.slow)
        for sizes in (
            (5, 2, 1, 50),
            (4, 3, 17, 17),
            (3, 1, 3, 1),
            (6, 9, 3, 64),
            (5, 70, 200, 128),
            (2, 3, 64, 256),
        )
    ),
]
EPSILON = 2.0**-23


class Layer(torch.nn.Module):
    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.native = Native(Generated(cell, cell.states))

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        return self.native(self.cell, x, state, lengths)


def assert_as_exact_as_the_loop(
    cell: Cell, x: Tensor, state: State, lengths: Tensor | None
) -> None:
    """At most three times the error of PyTorch's loop in float32, of norms, against float64."""
    twin = copy.deepcopy(cell).double()
    doubles = [tensor.detach().double().requires_grad_() for tensor in (x, *state)]
    exact = everything(Unrolled(twin), doubles[0], tuple(doubles[1:]), lengths)
    loop = everything(Unrolled(cell), x, state, lengths)
    found = everything(Layer(cell), x, state, lengths)
    for target, other, mine in zip(*([*v[0], *v[1]] for v in (exact, loop, found)), strict=True):
        size = target.norm()
        bound = 3 * (other.double() - target).norm() + 8 * EPSILON * size
        assert (mine.double() - target).norm() <= bound


@needs_a_compiler
@pytest.mark.parametrize(
    "name",
    [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in CELLS],
)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("ragged", [False, True])
def test_it_is_as_exact_as_the_loop(
    name: str, sizes: tuple[int, int, int, int], ragged: bool
) -> None:
    torch.manual_seed(0)
    T, B, I, H = sizes
    cell = CELLS[name](I, H)
    assert_as_exact_as_the_loop(cell, *inputs(cell, T, B, ragged, torch.float32))


@needs_a_compiler
def test_the_input_may_enter_beside_its_product() -> None:
    torch.manual_seed(0)
    cell = HighwayCell(6, 6)
    assert_as_exact_as_the_loop(cell, *inputs(cell, 5, 3, True, torch.float32))


@pytest.mark.parametrize("name", BY_HAND)
def test_a_schedule_keeps_no_more_than_a_kernel_by_hand(name: str) -> None:
    cell = CELLS[name](5, 8)
    generated = Generated(cell, cell.states)
    found = plan(generated.step, after_at_hand=True)
    assert (Forward(found).groups, len(Backward(found).columns)) == BY_HAND[name]


def test_members_of_a_family_are_neighbours() -> None:
    order = arrange([0, 1, 2, 3, 4], [[0, 1, 2], [0, 1, 3], [4]])
    for family in ([0, 1, 2], [0, 1, 3]):
        assert len(runs(order.index(n) for n in family)) == 1


@needs_a_compiler
@pytest.mark.parametrize("name", ["gru before", "layer norm", "chained"])
def test_threads_change_rounding_alone(name: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](9, 20)
    given = inputs(cell, 30, 13, True, torch.float32)
    layer = Layer(cell)
    threads = torch.get_num_threads()
    found: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
    try:
        for count in (1, 3, 3):
            torch.set_num_threads(count)
            values = everything(layer, *given)
            if count in found:
                for mine, before in zip(
                    [*values[0], *values[1]], [*found[count][0], *found[count][1]], strict=True
                ):
                    assert torch.equal(mine, before)
            found[count] = values
    finally:
        torch.set_num_threads(threads)
    for one, three in zip([*found[1][0], *found[1][1]], [*found[3][0], *found[3][1]], strict=True):
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-5)


@needs_a_compiler
@pytest.mark.parametrize("name", CELLS)
def test_padding_is_never_read(name: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](5, 8)
    x, state, _ = inputs(cell, 6, 4, False, torch.float32)
    lengths = torch.tensor([6, 1, 3, 4])
    layer = Layer(cell)
    expected = everything(layer, x, state, lengths)
    padded = x.detach().clone()
    for review, length in enumerate(lengths.tolist()):
        padded[length:, review] = torch.nan
    found = everything(layer, padded.requires_grad_(), state, lengths)
    for mine, target in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        assert torch.equal(mine, target)


@needs_a_compiler
@pytest.mark.parametrize("name", CELLS)
def test_inference_and_frozen_parameters(name: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](5, 8)
    x, state, lengths = inputs(cell, 6, 4, True, torch.float32)
    layer = Layer(cell)
    h, last = layer(x, state, lengths)
    with torch.inference_mode():
        again, last_again = layer(x, state, lengths)
    for mine, other in zip((h, *last), (again, *last_again), strict=True):
        assert torch.equal(mine, other)
    whole = everything(layer, x, state, lengths)[1]
    frozen, *rest = cell.parameters()
    frozen.requires_grad_(False)
    h, last = layer(x, state, lengths)
    random = torch.Generator().manual_seed(5)
    total = sum(
        (torch.randn(o.shape, generator=random, dtype=torch.float64) * o).sum() for o in (h, *last)
    )
    assert isinstance(total, Tensor)
    for mine, target in zip(torch.autograd.grad(total, rest), whole[2 + len(state) :], strict=True):
        assert torch.equal(mine, target)


@needs_a_compiler
def test_second_derivatives_are_refused() -> None:
    cell = CELLS["peephole"](3, 4)
    x, state, _ = inputs(cell, 3, 2, False, torch.float32)
    h, _ = Layer(cell)(x, state, None)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(h.sum(), x, create_graph=True)
