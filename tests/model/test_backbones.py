"""Layers over whole sequences: against PyTorch's packed sequences, over ragged lengths.

pytest tests/model/test_backbones.py
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from imdb_lightning import GRUCell, LSTMCell, RNNCell
from imdb_lightning.model.backbones import Backbone, Unrolled
from imdb_lightning.model.fused import Fused


SIZE, H = 5, 4
LENGTHS = torch.tensor([9, 1, 4, 9, 2])

Maker = Callable[[int, int], nn.Module]
# name -> (a layer of ours, PyTorch's layer with the same mathematics or None)
LAYERS: dict[str, tuple[Maker, Any]] = {
    "nn.RNN": (nn.RNN, nn.RNN),
    "nn.LSTM": (nn.LSTM, nn.LSTM),
    "nn.GRU": (nn.GRU, nn.GRU),
    "RNNCell": (lambda i, h: Unrolled(RNNCell(i, h)), nn.RNN),
    "LSTMCell": (lambda i, h: Unrolled(LSTMCell(i, h)), nn.LSTM),
    "GRUCell after": (lambda i, h: Unrolled(GRUCell(i, h, reset="after")), nn.GRU),
    "RNNCell fused": (lambda i, h: Fused(RNNCell(i, h)), nn.RNN),
    "LSTMCell fused": (lambda i, h: Fused(LSTMCell(i, h)), nn.LSTM),
    "GRUCell after fused": (lambda i, h: Fused(GRUCell(i, h, reset="after")), nn.GRU),
    "GRUCell before fused": (lambda i, h: Fused(GRUCell(i, h, reset="before")), None),
    "GRUCell before": (lambda i, h: Unrolled(GRUCell(i, h, reset="before")), None),
}
WITH_REFERENCE = [name for name, (_, reference) in LAYERS.items() if reference]


def backbone(name: str, layers: int = 1, bidirectional: bool = False) -> Backbone:
    return Backbone(LAYERS[name][0], SIZE, H, layers, bidirectional, dropout=0.0).double()


def inside(h: Tensor) -> Tensor:
    """True at the steps (T, B) of each review."""
    return torch.arange(len(h))[:, None] < LENGTHS


def copied(reference: nn.RNNBase, ours: Backbone) -> list[tuple[Tensor, Tensor]]:
    """Pairs (PyTorch's parameter, ours), after ours took PyTorch's random values."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for layers, suffix in ((ours.forwards, ""), (ours.backwards, "_reverse")):
        for number, layer in enumerate(layers):
            for name, parameter in layer.named_parameters():
                short = name.removeprefix("cell.").removesuffix("_l0")
                target = getattr(reference, f"{short}_l{number}{suffix}")
                with torch.no_grad():
                    parameter.copy_(target)
                pairs.append((target, parameter))
    assert len(pairs) == len(list(reference.parameters()))
    return pairs


@pytest.mark.parametrize(
    ("name", "layers", "two"), list(product(WITH_REFERENCE, (1, 2), (False, True)))
)
def test_outputs_and_gradients_are_those_of_packed_pytorch(
    name: str, layers: int, two: bool
) -> None:
    torch.manual_seed(0)
    kind = LAYERS[name][1]
    reference = kind(SIZE, H, num_layers=layers, bidirectional=two).double()
    ours = backbone(name, layers, two)
    pairs = copied(reference, ours)
    x = torch.randn(int(LENGTHS.max()), len(LENGTHS), SIZE, dtype=torch.float64).requires_grad_()

    found = ours(x, LENGTHS)
    packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
    expected, _ = pad_packed_sequence(reference(packed)[0])
    there = inside(x)
    torch.testing.assert_close(found[there], expected[there], rtol=1e-11, atol=1e-11)

    weights = torch.randn_like(expected)[there]
    wanted = torch.autograd.grad((weights * expected[there]).sum(), [x, *(p for p, _ in pairs)])
    gotten = torch.autograd.grad((weights * found[there]).sum(), [x, *(p for _, p in pairs)])
    for mine, target in zip(gotten, wanted, strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in WITH_REFERENCE if "Cell" in name])
def test_initial_and_final_states_are_pytorchs(name: str) -> None:
    torch.manual_seed(1)
    kind = LAYERS[name][1]
    reference = kind(SIZE, H).double()
    layer = LAYERS[name][0](SIZE, H).double()
    for parameter, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
        parameter.data.copy_(theirs)
    x = torch.randn(6, 3, SIZE, dtype=torch.float64)
    count = 2 if kind is nn.LSTM else 1
    states = [torch.randn(3, H, dtype=torch.float64).requires_grad_() for _ in range(count)]

    _, found = layer(x, tuple(states))
    first = tuple(s.unsqueeze(0) for s in states)
    _, last = reference(x, first if count == 2 else first[0])
    expected = [s.squeeze(0) for s in (last if count == 2 else (last,))]
    for mine, target in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-11, atol=1e-11)
    wanted = torch.autograd.grad(sum(s.square().sum() for s in expected), states)
    gotten = torch.autograd.grad(sum(s.square().sum() for s in found), states)
    for mine, target in zip(gotten, wanted, strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("name", "layers", "two"), list(product(LAYERS, (1, 2), (False, True))))
def test_padding_and_batch_mates_never_change_a_review(name: str, layers: int, two: bool) -> None:
    torch.manual_seed(2)
    model = backbone(name, layers, two)
    x = torch.randn(int(LENGTHS.max()), len(LENGTHS), SIZE, dtype=torch.float64)
    h = model(x, LENGTHS)
    for review, length in enumerate(LENGTHS.tolist()):
        alone = model(x[:length, review : review + 1], LENGTHS[review : review + 1])
        torch.testing.assert_close(h[:length, review], alone[:, 0], rtol=1e-12, atol=1e-12)
    garbage = torch.where(inside(x)[:, :, None], x, 1e6)
    assert torch.equal(model(garbage, LENGTHS)[inside(x)], h[inside(x)])


@pytest.mark.parametrize("two", (False, True))
def test_no_gradient_reaches_padding(two: bool) -> None:
    torch.manual_seed(3)
    model = backbone("LSTMCell", 2, two)
    x = torch.randn(int(LENGTHS.max()), len(LENGTHS), SIZE, dtype=torch.float64).requires_grad_()
    model(x, LENGTHS)[inside(x)].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[~inside(x)] == 0).all()
    assert (x.grad[inside(x)] != 0).any(dim=1).all()
