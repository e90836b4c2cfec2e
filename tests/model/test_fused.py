"""Fused cells against the loop over the same cell: the same equations in another order of work.

pytest tests/model/test_fused.py
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from imdb_lightning import Cell, GRUCell, LSTMCell, RNNCell
from imdb_lightning.model.backbones import Unrolled
from imdb_lightning.model.cells import State
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.model.fused import Fused
from imdb_lightning.model.kernels import library
from imdb_lightning.model.network import layer_factory
from tests.conftest import composed


CELLS: dict[str, Callable[[int, int], Cell]] = {
    "rnn": RNNCell,
    "lstm": LSTMCell,
    "gru after": lambda i, h: GRUCell(i, h, reset="after"),
    "gru before": lambda i, h: GRUCell(i, h, reset="before"),
}
SIZES = [  # T steps, B reviews, I input, H hidden: whole vectors, parts of them, and the least
    (7, 5, 5, 4),
    (9, 70, 17, 33),
    (20, 7, 64, 64),
    (3, 2, 1, 16),
    (6, 130, 20, 50),
    (1, 1, 3, 1),
]

needs_kernels = pytest.mark.skipif(not library.can_compile(), reason="no C compiler here")


def inputs(
    cell: Cell, T: int, B: int, ragged: bool, dtype: torch.dtype
) -> tuple[Tensor, State, Tensor | None]:
    x = torch.randn(T, B, cell.input_size, dtype=dtype).requires_grad_()
    state = tuple(
        torch.randn(B, cell.hidden_size, dtype=dtype).requires_grad_() for _ in range(cell.states)
    )
    return x, state, torch.randint(1, T + 1, (B,)) if ragged else None


def everything(
    layer: nn.Module, x: Tensor, state: State, lengths: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and last states; gradients of input, first states and weights, of a random sum."""
    h, last = layer(x, state, lengths)
    random = torch.Generator().manual_seed(5)
    outputs = [h, *last]
    total = sum(
        (torch.randn(o.shape, generator=random, dtype=torch.float64) * o).sum() for o in outputs
    )
    assert isinstance(total, Tensor)
    return outputs, list(torch.autograd.grad(total, [x, *state, *layer.parameters()]))


def doubled(cell: Cell, x: Tensor, state: State) -> tuple[nn.Module, Tensor, State]:
    """The loop over the same cell on the same values in float64."""
    twin = copy.deepcopy(cell).double()
    return (
        Unrolled(twin),
        x.detach().double().requires_grad_(),
        tuple(s.detach().double().requires_grad_() for s in state),
    )


@pytest.mark.parametrize(
    ("name", "sizes", "ragged"), list(product(CELLS, SIZES, (False, True))), ids=str
)
def test_interpreted_passes_are_the_loop(
    name: str, sizes: tuple[int, int, int, int], ragged: bool
) -> None:
    torch.manual_seed(0)
    T, B, I, H = sizes
    cell = CELLS[name](I, H).double()
    x, state, lengths = inputs(cell, T, B, ragged, torch.float64)
    found = everything(Fused(cell, native=False), x, state, lengths)
    expected = everything(Unrolled(cell), x, state, lengths)
    for mine, target in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-11, atol=1e-12)


@needs_kernels
@pytest.mark.parametrize(
    ("name", "sizes", "ragged"), list(product(CELLS, SIZES, (False, True))), ids=str
)
def test_native_passes_are_the_loop_to_float32(
    name: str, sizes: tuple[int, int, int, int], ragged: bool
) -> None:
    torch.manual_seed(0)
    T, B, I, H = sizes
    cell = CELLS[name](I, H)
    x, state, lengths = inputs(cell, T, B, ragged, torch.float32)
    outputs, gradients = everything(Fused(cell), x, state, lengths)
    exact_outputs, exact_gradients = everything(*doubled(cell, x, state), lengths)
    for mine, target in zip(outputs, exact_outputs, strict=True):
        assert (mine - target).abs().max() < 2e-6
    for mine, target in zip(gradients, exact_gradients, strict=True):
        assert (mine - target).abs().max() < 3e-6 * max(1.0, float(target.abs().max()))


@needs_kernels
@pytest.mark.parametrize(("name", "threads"), list(product(CELLS, (1, 2, 3))))
def test_any_number_of_threads_is_reproducible(name: str, threads: int) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](9, 20)
    x, state, lengths = inputs(cell, 6, 11, True, torch.float32)
    before = torch.get_num_threads()
    alone = everything(Fused(cell), x, state, lengths)
    torch.set_num_threads(threads)
    try:
        first, second = (everything(Fused(cell), x, state, lengths) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    for values, again, single in zip(
        [*first[0], *first[1]], [*second[0], *second[1]], [*alone[0], *alone[1]], strict=True
    ):
        assert torch.equal(values, again)
        torch.testing.assert_close(values, single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "ragged"), list(product(CELLS, (False, True))))
def test_gradients_are_those_of_finite_differences(name: str, ragged: bool) -> None:
    torch.manual_seed(1)
    cell = CELLS[name](3, 2).double()
    layer = Fused(cell)
    x, state, lengths = inputs(cell, 4, 3, ragged, torch.float64)

    def run(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        states, weights = values[: cell.states], values[cell.states :]
        named = dict(zip([n for n, _ in layer.named_parameters()], weights, strict=True))
        h, last = torch.func.functional_call(layer, named, (x, states, lengths))
        return h, *last

    assert torch.autograd.gradcheck(run, (x, *state, *layer.parameters()))


@pytest.mark.parametrize(("name", "native"), list(product(CELLS, (False, True))))
def test_padding_is_never_read(name: str, native: bool) -> None:
    torch.manual_seed(2)
    cell = CELLS[name](5, 4)
    x, state, lengths = inputs(cell, 8, 6, True, torch.float32)
    assert lengths is not None
    after = torch.arange(8)[:, None] >= lengths
    garbage = x.detach().masked_fill(after[:, :, None], torch.nan).requires_grad_()
    for layer in (Fused(cell, native), Unrolled(cell)):
        h, last = layer(x, state, lengths)
        for review, length in enumerate(lengths.tolist()):  # the state stays as it is
            assert torch.equal(h[length:, review], h[length - 1, review].expand(8 - length, -1))
        assert torch.equal(h[-1], last[0])
        mine, theirs = (everything(layer, values, state, lengths) for values in (x, garbage))
        for clean, other in zip([*mine[0], *mine[1]], [*theirs[0], *theirs[1]], strict=True):
            assert torch.equal(clean, other)
        assert not theirs[1][0][after].any()


@pytest.mark.parametrize(("name", "native"), list(product(CELLS, (False, True))))
def test_a_second_derivative_is_refused(name: str, native: bool) -> None:
    cell = CELLS[name](3, 2)
    x = torch.randn(4, 2, 3).requires_grad_()
    h, _ = Fused(cell, native)(x)
    with pytest.raises(RuntimeError, match="no second derivative; use model.implementation=loop"):
        torch.autograd.grad(h.sum(), x, create_graph=True)


@pytest.mark.parametrize(("name", "native"), list(product(CELLS, (False, True))))
def test_a_retained_graph_has_the_same_gradients_again(name: str, native: bool) -> None:
    cell = CELLS[name](3, 2)
    x = torch.randn(4, 2, 3).requires_grad_()
    h, _ = Fused(cell, native)(x)
    first, second = (torch.autograd.grad(h.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("name", "native"), list(product(CELLS, (False, True))))
def test_a_gradient_of_any_layout_is_read_right(name: str, native: bool) -> None:
    torch.manual_seed(3)
    cell = CELLS[name](3, 4)
    x = torch.randn(5, 2, 3).requires_grad_()
    h, _ = Fused(cell, native)(x)
    same_for_all = torch.randn(2, 4).expand(5, 2, 4)  # that of a mean over the steps
    turned = torch.randn(4, 2, 5).permute(2, 1, 0)
    for grad in (same_for_all, turned, torch.ones(()).expand(5, 2, 4)):
        parameters = [x, *cell.parameters()]
        found = torch.autograd.grad(h, parameters, grad, retain_graph=True)
        expected = torch.autograd.grad(h, parameters, grad.contiguous(), retain_graph=True)
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("name", "native"), list(product(CELLS, (False, True))))
def test_inputs_of_any_layout_are_read_right(name: str, native: bool) -> None:
    torch.manual_seed(4)
    cell = CELLS[name](3, 4)
    layer = Fused(cell, native)
    x = torch.randn(2, 5, 3).transpose(0, 1)
    state = tuple(torch.randn(4, 2).T for _ in range(cell.states))
    h, last = layer(x, state)
    plain_h, plain_last = layer(x.contiguous(), tuple(s.contiguous() for s in state))
    assert all(map(torch.equal, (h, *last), (plain_h, *plain_last)))


@pytest.mark.parametrize("name", CELLS)
def test_autocast_computes_in_the_type_of_the_weights(name: str) -> None:
    torch.manual_seed(5)
    layer = Fused(CELLS[name](3, 4))
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h, _ = layer(x)
    assert torch.equal(h, layer(x)[0])
    assert layer.bfloat16()(x)[0].dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize("name", CELLS)
def test_a_gpu_gives_what_a_cpu_gives_in_float64(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    cell = CELLS[name](5, 4).double()
    x, state, lengths = inputs(cell, 6, 3, True, torch.float64)
    expected = everything(Fused(cell), x, state, lengths)
    assert lengths is not None
    there = [t.detach().cuda().requires_grad_() for t in (x, *state)]
    h, last = Fused(cell.cuda())(there[0], tuple(there[1:]), lengths.cuda())
    for mine, target in zip((h, *last), expected[0], strict=True):
        torch.testing.assert_close(mine.cpu(), target, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("name", "native"), list(product(CELLS, (False, True))))
def test_inputs_that_do_not_fit_the_cell_are_refused(name: str, native: bool) -> None:
    cell = CELLS[name](3, 2)
    layer = Fused(cell, native)
    x = torch.randn(4, 5, 3)
    with pytest.raises(ValueError, match="x is"):
        layer(torch.randn(4, 5, 7))
    with pytest.raises(ValueError, match="x is"):
        layer(x[:0])
    with pytest.raises(ValueError, match="the state is"):
        layer(x, tuple(torch.zeros(1, 2) for _ in range(cell.states)))
    with pytest.raises(ValueError, match="lengths are"):
        layer(x, None, torch.tensor([4, 4]))
    lengths = torch.tensor([1, 2, 3, 4, 4])
    assert torch.equal(layer(x, None, lengths.int())[0], layer(x, None, lengths)[0])


class Mine(RNNCell):
    """A subclass may compute anything else."""

    def step(self, projected_x: Tensor, state: State) -> State:
        return (torch.cos(super().step(projected_x, state)[0]),)


class Arctangent(RNNCell):
    """Outside the language that kernels are generated from."""

    def step(self, projected_x: Tensor, state: State) -> State:
        return (torch.atan(super().step(projected_x, state)[0]),)


def mine(name: str) -> tuple[nn.Module, Cell]:
    model = {"cell": {"_target_": f"{__name__}.{name}"}, "implementation": "fused"}
    layer = layer_factory(model)(2, 2)
    (cell,) = layer.children()
    assert isinstance(cell, Cell)
    return layer, cell


@needs_kernels
def test_a_cell_of_a_user_has_generated_kernels_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    layer, cell = mine("Mine")
    x = torch.randn(4, 3, 2)
    torch.testing.assert_close(layer(x)[0], Unrolled(cell)(x)[0])
    assert isinstance(layer, Fused) and layer.on_cpu.by == "C"
    interpreted = Fused(cell, native=False)
    torch.testing.assert_close(interpreted(x)[0], Unrolled(cell)(x)[0])
    assert interpreted.on_cpu.by == "PyTorch"
    assert [r for r in caplog.records if r.name.startswith("imdb_lightning")] == []


class OfTheBatch(RNNCell):
    """Its step depends on the number of reviews, which a trace has as a constant."""

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = super().step(projected_x, state)
        return (h_BH / h_BH.shape[0],)


class Annealed(RNNCell):
    """Its attributes change while it is trained."""

    alpha = 1.0

    def step(self, projected_x: Tensor, state: State) -> State:
        return (self.alpha * super().step(projected_x, state)[0],)


@pytest.mark.slow
@needs_kernels
def test_what_a_trace_would_freeze_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    for reviews in (3, 4, 5, 6):
        layer, cell = mine("OfTheBatch")
        x = torch.randn(4, reviews, 2)
        torch.testing.assert_close(layer(x)[0], Unrolled(cell)(x)[0])
    layer, cell = mine("Annealed")
    for step in range(8):
        vars(cell)["alpha"] = 1 - step / 10
        torch.testing.assert_close(layer(x)[0], Unrolled(cell)(x)[0])
    lines = [r.message for r in caplog.records if r.name.startswith("imdb_lightning")]
    assert [line for line in lines if "its results differ from the loop's by" in line]
    assert [line for line in lines if "its attributes change all the time" in line]


def test_a_cell_that_has_none_is_unrolled_and_one_line_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    x = torch.randn(4, 3, 2)
    for _ in range(2):
        layer, cell = mine("Arctangent")
        assert torch.equal(layer(x)[0], Unrolled(cell)(x)[0])
    (line,) = [r.message for r in caplog.records if r.name.startswith("imdb_lightning")]
    assert line.startswith("Arctangent runs step by step, without generated kernels: the operation")


@pytest.mark.parametrize(("name", "layer"), list(product(CELLS, (Fused, Unrolled))))
def test_a_checkpoint_fits_every_implementation(name: str, layer: type[nn.Module]) -> None:
    torch.manual_seed(6)
    cell = CELLS[name](3, 4)
    other = layer(CELLS[name](3, 4))
    other.load_state_dict(Unrolled(cell).state_dict(), strict=True)
    assert list(other.state_dict()) == [f"cell.{key}" for key in cell.state_dict()]


def losses(model: str, implementation: str, steps: int) -> list[float]:
    """Of training steps on random reviews, as long as the report's."""
    overrides = [f"model=custom_{model}", f"model.implementation={implementation}"]
    cfg = OmegaConf.merge(
        composed(*overrides), OmegaConf.from_dotlist(["data.vocab_size=300", "model.dropout=0"])
    )
    torch.manual_seed(0)
    net = Classifier.from_config(cfg.model, cfg.optim)
    optimizer = net.configure_optimizers()
    random = torch.Generator().manual_seed(1)
    taken = []
    for _ in range(steps):
        tokens = torch.randint(3, 300, (8, 50), generator=random)
        lengths = torch.randint(1, 51, (8,), generator=random)
        labels = (tokens[:, 0] > 150).long()
        optimizer.zero_grad()
        loss = net._step((tokens, lengths, labels, torch.arange(8)), "train")
        loss.backward()
        optimizer.step()
        taken.append(loss.item())
    return taken


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_loss_curves_of_fused_and_loop_agree_over_100_steps(model: str) -> None:
    fused, loop = (losses(model, implementation, 100) for implementation in ("fused", "loop"))
    assert len(set(fused)) > 90  # it learns
    assert max(abs(f - u) for f, u in zip(fused, loop, strict=True)) < 1e-4
