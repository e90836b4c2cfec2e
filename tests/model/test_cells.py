"""The cells against PyTorch's, and against the report's equations written out by hand.

pytest tests/model/test_cells.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imdb_lightning import Cell, GRUCell, LSTMCell, RNNCell, check_cell
from imdb_lightning.model.cells import State
from imdb_lightning.model.check import CellError


SIZE, H, B = 5, 4, 3

OURS: dict[str, Cell] = {
    "rnn": RNNCell(SIZE, H),
    "lstm": LSTMCell(SIZE, H),
    "gru, reset before": GRUCell(SIZE, H, reset="before"),
    "gru, reset after": GRUCell(SIZE, H, reset="after"),
}
TORCHS: dict[str, tuple[type[Cell], dict[str, Any], Any]] = {
    "rnn": (RNNCell, {}, nn.RNNCell),
    "lstm": (LSTMCell, {}, nn.LSTMCell),
    "gru": (GRUCell, {"reset": "after"}, nn.GRUCell),
}


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("name", OURS)
def test_cells_keep_the_contract(name: str) -> None:
    check_cell(OURS[name])


@pytest.mark.parametrize("name", OURS)
def test_every_gate_and_state_of_a_cell_has_its_equation(name: str) -> None:
    cell = OURS[name]
    gates = cell.gates(torch.zeros(B, len(cell.bias_ih)), cell.initial_state(B))
    assert set(cell.equations()) == {*gates, *cell.STATES}
    assert len(cell.STATES) == cell.states


class SlowForgetting(LSTMCell):
    """Computes another step with the gates that it inherits."""

    def step(self, projected_x: Tensor, state: State) -> State:
        h_BH, c_BH = super().step(projected_x, state)
        return h_BH, (c_BH + state[1]) / 2


class NegatedGates(LSTMCell):
    """Computes the inherited step with other gates."""

    def gates(self, projected_x: Tensor, state: State) -> dict[str, Tensor]:
        return super().gates(-projected_x, state)


class OtherInput(LSTMCell):
    def project(self, x: Tensor) -> Tensor:
        return super().project(x).square()


class AnotherName(LSTMCell):
    pass


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        (LSTMCell, ["EQUATIONS", "STATES", "gates"]),
        (AnotherName, ["EQUATIONS", "STATES", "gates"]),
        (SlowForgetting, []),
        (NegatedGates, ["gates"]),
        (OtherInput, []),
    ],
)
def test_a_cell_inherits_no_description_of_another_step(
    kind: type[LSTMCell], described: list[str]
) -> None:
    names = ["EQUATIONS", "STATES", "gates"]
    assert [name for name in names if kind.describes_itself(name)] == described
    assert bool(kind(SIZE, H).equations()) == ("EQUATIONS" in described)


@pytest.mark.parametrize("name", TORCHS)
def test_a_step_and_its_gradients_are_pytorchs(name: str) -> None:
    kind, options, theirs_kind = TORCHS[name]
    torch.manual_seed(0)
    theirs = theirs_kind(SIZE, H).double()
    ours = kind(SIZE, H, **options).double()
    ours.load_state_dict(theirs.state_dict())  # names and layout are the same
    x, state = random(B, SIZE), tuple(random(B, H) for _ in range(ours.states))

    outputs = ours(x, state)
    expected = theirs(x, state if name == "lstm" else state[0])
    expected = expected if isinstance(expected, tuple) else (expected,)
    weights = [torch.randn_like(output) for output in outputs]
    for output, target in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, target, rtol=1e-12, atol=1e-12)

    def gradients(module: nn.Module, outputs: State) -> tuple[Tensor, ...]:
        total = sum((w * o).sum() for w, o in zip(weights, outputs, strict=True))
        assert isinstance(total, Tensor)
        return torch.autograd.grad(total, [x, *state, *module.parameters()])

    for mine, target in zip(gradients(ours, outputs), gradients(theirs, expected), strict=True):
        torch.testing.assert_close(mine, target, rtol=1e-10, atol=1e-12)


def test_gru_with_reset_before_is_equations_9_to_12() -> None:
    torch.manual_seed(1)
    cell = GRUCell(SIZE, H, reset="before").double()
    x, h = random(B, SIZE), random(B, H)
    (found,) = cell(x, (h,))
    W, U = cell.weight_ih, cell.weight_hh
    b = cell.bias_ih + cell.bias_hh
    for row in range(B):  # one review and one unit at a time, as the report writes them
        x_t, h_before = x[row], h[row]
        r, z = [], []
        for unit in range(H):
            r.append(torch.sigmoid(W[unit] @ x_t + U[unit] @ h_before + b[unit]))  # (10)
            z_row = H + unit
            z.append(torch.sigmoid(W[z_row] @ x_t + U[z_row] @ h_before + b[z_row]))  # (9)
        r_t, z_t = torch.stack(r), torch.stack(z)
        candidate = torch.stack(
            [torch.tanh(W[n] @ x_t + U[n] @ (r_t * h_before) + b[n]) for n in range(2 * H, 3 * H)]
        )  # (11)
        h_t = z_t * h_before + (1 - z_t) * candidate  # (12)
        torch.testing.assert_close(found[row], h_t, rtol=1e-12, atol=1e-12)


def test_the_two_resets_differ() -> None:
    torch.manual_seed(2)
    before, after = GRUCell(SIZE, H, reset="before"), GRUCell(SIZE, H, reset="after")
    after.load_state_dict(before.state_dict())
    x, state = torch.randn(B, SIZE), (torch.randn(B, H),)
    assert (before(x, state)[0] - after(x, state)[0]).abs().max() > 1e-3


def test_an_unknown_reset_is_refused() -> None:
    with pytest.raises(ValueError, match="'before' or 'after'"):
        GRUCell(SIZE, H, reset="during")  # type: ignore[arg-type]


class Forgetful(RNNCell):
    """Keeps a hidden state between calls."""

    def forward(self, x_BI: Tensor, state: State) -> State:
        kept = getattr(self, "kept", 0.0)
        self.kept = kept + 0.1
        return (super().forward(x_BI, state)[0] + kept,)


class Gossip(RNNCell):
    """Lets a review see the mean of its batch."""

    def forward(self, x_BI: Tensor, state: State) -> State:
        return super().forward(x_BI + x_BI.mean(0), state)


class Idle(RNNCell):
    """Has biases that do nothing."""

    def forward(self, x_BI: Tensor, state: State) -> State:
        return (torch.tanh(x_BI @ self.weight_ih.T + state[0] @ self.weight_hh.T),)


class Bare(RNNCell):
    """Returns h, not a tuple."""

    def forward(self, x_BI: Tensor, state: State) -> State:
        return super().forward(x_BI, state)[0]  # type: ignore[return-value]


class Detached(RNNCell):
    """Cuts the gradient of its state."""

    def forward(self, x_BI: Tensor, state: State) -> State:
        return super().forward(x_BI, (state[0].detach(),))


class Hidden(RNNCell):
    """Has a weight that no state_dict holds."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.register_buffer("scale", torch.full((hidden_size,), 0.5), persistent=False)

    def forward(self, x_BI: Tensor, state: State) -> State:
        return (super().forward(x_BI, state)[0] * self.get_buffer("scale"),)


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        (Forgetful(SIZE, H), "keeps a state between calls"),
        (Gossip(SIZE, H), "other reviews of the batch"),
        (Idle(SIZE, H), "bias_ih gets no gradient"),
        (Bare(SIZE, H), "not a tuple"),
        (Detached(SIZE, H), "finite differences"),
        (Hidden(SIZE, H), "is missing"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Cell) else "",
)
def test_check_cell_finds_a_broken_cell(cell: Cell, complaint: str) -> None:
    with pytest.raises(CellError, match=complaint):
        check_cell(cell)


def test_check_cell_changes_neither_cell_nor_random_state() -> None:
    cell = RNNCell(SIZE, H)
    before, random_state = (
        {k: v.clone() for k, v in cell.state_dict().items()},
        torch.get_rng_state(),
    )
    check_cell(cell)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(v, before[k]) for k, v in cell.state_dict().items())
    assert cell.weight_ih.dtype == torch.float32
