"""Cells, layers and networks on a GPU against float64 on the CPU.

pytest tests/model/test_cuda.py -m gpu
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from imdb_lightning import Cell
from imdb_lightning.model.backbones import Unrolled
from imdb_lightning.model.cells import State
from imdb_lightning.model.classifier import Batch, Classifier
from imdb_lightning.model.fused import Fused, unrolled
from imdb_lightning.model.kernels import precision as rounding
from imdb_lightning.model.kernels import vendor
from imdb_lightning.model.kernels.cuda import WAYS, CudaSequence
from imdb_lightning.model.losses import LOSSES
from imdb_lightning.model.network import POOLINGS
from tests.conftest import composed
from tests.model.papers import CELLS
from tests.model.test_fused import inputs


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

SIZES = [  # T steps, B reviews, I input, H hidden, ragged: one program and several, and parts
    (7, 5, 5, 8, True),
    (20, 7, 64, 64, False),
    (5, 70, 17, 33, True),
    (4, 9, 6, 200, True),
    (1, 1, 3, 1, False),
]
# |result - exact| / |exact|: of products in float32, and of products rounded to TF32.
BOUNDS = {"ieee": 3e-5, "tf32": 3e-2}


@pytest.fixture
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = rounding.rnn.fp32_precision
    rounding.rnn.fp32_precision = request.param
    yield request.param
    rounding.rnn.fp32_precision = before


@pytest.fixture
def exact_products() -> Iterator[None]:
    before = rounding.rnn.fp32_precision
    rounding.rnn.fp32_precision = "ieee"
    yield
    rounding.rnn.fp32_precision = before


class By(nn.Module):
    """A cell by one way alone."""

    def __init__(self, cell: Cell, *ways: str) -> None:
        super().__init__()
        self.cell = cell
        self.sequence = CudaSequence(cell, unrolled, ways)

    def forward(self, x: Tensor, state: Any, lengths: Tensor | None = None) -> Any:
        return self.sequence(x, state, lengths)


def results(layer: nn.Module, x: Tensor, state: Any, lengths: Tensor | None) -> list[Tensor]:
    """Outputs, last states and all gradients, of a random sum of them, in float64 on the CPU."""
    given = [tensor.detach().requires_grad_() for tensor in (x, *state)]
    h, last = layer(given[0], tuple(given[1:]), lengths)
    random = torch.Generator().manual_seed(5)
    weights = [torch.randn(o.shape, generator=random, dtype=torch.float64) for o in (h, *last)]
    grads = torch.autograd.grad(
        (h, *last), [*given, *layer.parameters()], [w.to(h) for w in weights]
    )
    return [tensor.detach().double().cpu() for tensor in (h, *last, *grads)]


def exact(cell: Cell, x: Tensor, state: Any, lengths: Tensor | None) -> list[Tensor]:
    twin = copy.deepcopy(cell).double()
    return results(Unrolled(twin), x.double(), tuple(s.double() for s in state), lengths)


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(
        ((mine - target).norm() / target.norm().clamp(min=1e-2)).item()
        for mine, target in zip(found, expected, strict=True)
    )


def on_gpu(x: Tensor, state: State) -> tuple[Tensor, State]:
    return x.detach().cuda(), tuple(tensor.detach().cuda() for tensor in state)


@pytest.mark.parametrize(
    ("way", "name", "sizes", "precision"),
    [
        (way, name, sizes, precision)
        for way, name, sizes, precision in product(WAYS, CELLS, SIZES, BOUNDS)
        if (precision == "ieee" or sizes[0] == 20)
        and (way != "cuDNN" or (vendor.mode_of(CELLS[name](1, 1)) and not sizes[4]))
    ],
    ids=str,
    indirect=["precision"],
)
def test_every_way_is_the_loop(
    way: str, name: str, sizes: tuple[int, int, int, int, bool], precision: str
) -> None:
    torch.manual_seed(0)
    T, B, I, H, ragged = sizes
    cell = CELLS[name](I, H)
    x, state, lengths = inputs(cell, T, B, ragged, torch.float32)
    expected = exact(cell, x, state, lengths)
    x, state = on_gpu(x, state)
    layer = By(copy.deepcopy(cell).cuda(), way)
    found = results(layer, x, state, None if lengths is None else lengths.cuda())
    assert layer.sequence.by == way
    assert error(found, expected) < BOUNDS[precision]


@pytest.mark.parametrize("name", CELLS)
def test_the_interpreter_in_float64_is_the_cpus(name: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](5, 9).double()
    x, state, lengths = inputs(cell, 40, 6, True, torch.float64)
    expected = exact(cell, x, state, lengths)
    layer = By(copy.deepcopy(cell).cuda(), "CUDA graphs")
    assert lengths is not None
    x, state = on_gpu(x, state)
    assert error(results(layer, x, state, lengths.cuda()), expected) < 1e-11


@pytest.mark.parametrize("name", CELLS)
def test_the_same_twice_and_nothing_after_the_end_is_read(name: str) -> None:
    torch.manual_seed(1)
    cell = CELLS[name](16, 128).cuda()
    x, state, lengths = inputs(cell.cpu(), 30, 20, True, torch.float32)
    cell = cell.cuda()
    assert lengths is not None
    x, state = on_gpu(x, state)
    after = torch.arange(30)[:, None] >= lengths
    garbage = x.masked_fill(after[:, :, None].cuda(), torch.nan)
    layer = By(cell, "Triton", "CUDA graphs")
    first, second, third = (
        results(layer, values, state, lengths.cuda()) for values in (x, x, garbage)
    )
    for one, two, three in zip(first, second, third, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_a_gradient_of_any_layout_is_read_right() -> None:
    torch.manual_seed(3)
    cell = CELLS["minimal"](3, 16).cuda()
    layer = By(cell, "Triton")
    x = torch.randn(5, 2, 3, device="cuda").requires_grad_()
    h, _ = layer(x, cell.initial_state(2))
    same_for_all = torch.randn(2, 16, device="cuda").expand(5, 2, 16)
    turned = torch.randn(16, 2, 5, device="cuda").permute(2, 1, 0)
    for grad in (same_for_all, turned, torch.ones((), device="cuda").expand(5, 2, 16)):
        found = torch.autograd.grad(h, [x, *cell.parameters()], grad, retain_graph=True)
        again = torch.autograd.grad(
            h, [x, *cell.parameters()], grad.contiguous(), retain_graph=True
        )
        assert all(map(torch.equal, found, again))


class Unknown(Cell):
    """An operation that no kernel is generated from."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=1)

    def step(self, projected_x: Tensor, state: Any) -> Any:
        return (torch.atan(projected_x + nn.functional.linear(state[0], self.weight_hh)),)


def test_a_cell_that_cannot_be_generated_runs_as_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    cell = Unknown(3, 4).cuda()
    layer = Fused(cell)
    x = torch.randn(5, 2, 3, device="cuda")
    assert torch.equal(layer(x)[0], Unrolled(cell)(x)[0])
    (line,) = [line for line in caplog.messages if "Unknown" in line]
    assert "Unknown runs step by step" in line and "atan" in line


def test_a_cell_that_is_too_wide_for_the_chip_runs_under_cuda_graphs(exact_products: None) -> None:
    cell = CELLS["peephole"](8, 1100)
    x, state, _ = inputs(cell, 3, 2, False, torch.float32)
    expected = exact(cell, x, state, None)
    x, state = on_gpu(x, state)
    layer = By(copy.deepcopy(cell).cuda(), *WAYS)
    assert error(results(layer, x, state, None), expected) < 3e-5
    assert layer.sequence.by == "CUDA graphs"


def network(*overrides: str) -> Classifier:
    cfg = OmegaConf.merge(
        composed(*overrides), OmegaConf.from_dotlist(["data.vocab_size=50", "model.dropout=0"])
    )
    torch.manual_seed(0)
    return Classifier.from_config({**cfg.model, "vocab_size": 50}, cfg.optim)


def batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 13, (9,), generator=random)
    tokens = torch.randint(1, 50, (9, 12), generator=random)
    tokens[torch.arange(12) >= lengths[:, None]] = 0
    return tokens, lengths, torch.arange(9) % 2, torch.arange(9)


@pytest.mark.parametrize(
    "overrides",
    [
        *(f"model=custom_gru model.pooling={name}" for name in POOLINGS),
        *(f"model=custom_lstm model.loss={name}" for name in LOSSES),
        *(f"model={name} model.bidirectional=true model.num_layers=2" for name in
          ("rnn", "lstm", "gru", "custom_rnn", "custom_lstm", "custom_gru")),
    ],
)  # fmt: skip
def test_networks_give_the_cpus_loss_and_gradients(overrides: str, exact_products: None) -> None:
    net = network(*overrides.split(), "model.hidden_size=24")
    twin = copy.deepcopy(net).double()
    values = []
    for model, device in ((net.cuda(), "cuda"), (twin, "cpu")):
        tokens, lengths, labels, index = (tensor.to(device) for tensor in batch())
        loss = model.losses((tokens, lengths, labels, index))[0].mean()
        grads = torch.autograd.grad(loss, [*model.parameters()])
        values.append([loss.detach().double().cpu(), *(g.double().cpu() for g in grads)])
    for mine, target in zip(*values, strict=True):
        assert (mine - target).norm() <= 1e-4 * target.norm() + 1e-7


@pytest.mark.parametrize("name", ["lstm", "custom_lstm", "gru", "custom_gru"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_mixed_precision_stays_near_float32(name: str, dtype: torch.dtype, bound: float) -> None:
    net = network(f"model={name}").cuda()
    tokens, lengths, labels, index = (tensor.cuda() for tensor in batch())
    given = tokens, lengths, labels, index
    exact = net.double().losses(given)[0].mean().item()
    net.float()
    with torch.autocast("cuda", dtype=dtype):
        loss = net.losses(given)[0].mean()
    assert loss.dtype == torch.float32
    assert abs(loss.item() - exact) < bound * exact


@pytest.mark.parametrize("way", WAYS)
def test_memory_is_freed(way: str) -> None:
    cell = CELLS["lstm"](32, 64).cuda()
    layer = By(cell, way)
    x = torch.randn(50, 32, 32, device="cuda")

    def step() -> int:
        h, _ = layer(x.detach().requires_grad_(), cell.initial_state(32))
        h.sum().backward()
        for parameter in cell.parameters():
            parameter.grad = None
        del h
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    step()
    step()
    assert len({step() for _ in range(5)}) == 1
