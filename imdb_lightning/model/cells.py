"""Recurrent cells: the equations of one time step.

Dimensions: B reviews in the batch, I input size, H hidden size, G gates.

Conventions, all of them PyTorch's, so that a state_dict moves between these cells and
`torch.nn.RNNCell`, `LSTMCell`, `GRUCell`:

- A state is a tuple of (B, H) tensors; `state[0]` is the output h.
- weight_ih is (G*H, I), weight_hh (G*H, H), bias_ih and bias_hh (G*H,). LSTM gates stand in the
  order i, f, g, o; GRU gates in the order r, z, n.
- There are two biases. Where the report writes one b, read bias_ih + bias_hh; where it writes
  [h, x] W, read x weight_ih^T + h weight_hh^T.
- All parameters start uniform in +-1/sqrt(H).

Equation numbers are those of the course report that this project grew out of.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


State = tuple[Tensor, ...]


class Cell(nn.Module):
    """One time step of a recurrent network. Abstract: a cell defines `step`, or else `forward`.

    A cell knows nothing of time, padding, layers or direction. One of your own is a subclass that
    takes `(input_size, hidden_size)`, tells this constructor how many gates its four parameters
    hold and how many tensors its state has, and writes its equations in `step`, as the cells here
    do, where the input enters through W_ih x + b_ih alone: that product is then made for many steps
    at once. A cell whose input enters otherwise writes them in `forward`.
    `imdb_lightning.check_cell` says whether it keeps the contract.
    """

    def __init__(self, input_size: int, hidden_size: int, *, gates: int, states: int = 1) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.states = states
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(gates * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(gates * hidden_size))
        bound = 1 / math.sqrt(hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def initial_state(self, batch_size: int) -> State:
        """Zeros: a tuple of (B, H) tensors."""
        return tuple(
            self.weight_hh.new_zeros(batch_size, self.hidden_size) for _ in range(self.states)
        )

    def forward(self, x_BI: Tensor, state: State) -> State:
        """The state after this step. x_BI: float, (B, I). State: a tuple of (B, H) tensors."""
        return self.step(self.project(x_BI), state)

    def project(self, x: Tensor) -> Tensor:
        """W_ih x + b_ih, what the input brings to all gates: (..., I) to (..., G*H)."""
        return nn.functional.linear(x, self.weight_ih, self.bias_ih)

    def step(self, projected_x: Tensor, state: State) -> State:
        """The state after this step. projected_x: (B, G*H), what `project` gives."""
        raise NotImplementedError


class RNNCell(Cell):
    """Elman's cell, equation (1):

        h_t = tanh(W_h x_t + U_h h_{t-1} + b_h)

    The output y_t of (1) is the classifier's head. Source: Elman 1990, "Finding structure in time".
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=1)

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        projected_h = nn.functional.linear(h_BH, self.weight_hh, self.bias_hh)
        return (torch.tanh(projected_x + projected_h),)


class LSTMCell(Cell):
    """Long short-term memory, equations (2)-(8), state (h, c):

        f_t = sigmoid([h_{t-1}, x_t] W_f + b_f)       (2)
        C'_{t-1} = f_t * C_{t-1}                      (3)
        i_t = sigmoid([h_{t-1}, x_t] W_i + b_i)       (4)
        g_t = tanh([h_{t-1}, x_t] W_C + b_C)          (5)  the candidate, written C~ there
        C_t = C'_{t-1} + i_t * g_t                    (6)
        o_t = sigmoid([h_{t-1}, x_t] W_o + b_o)       (7)
        h_t = o_t * tanh(C_t)                         (8)

    The report prints (6) as f_t * C'_{t-1} + i_t * C~_t, which with (3) would forget twice; its
    text, and every LSTM, forgets once. Source: Hochreiter and Schmidhuber 1997; the forget gate is
    Gers, Schmidhuber and Cummins 2000.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, states=2)

    def step(self, projected_x: Tensor, state: State) -> State:
        h_BH, c_BH = state
        projected_h = nn.functional.linear(h_BH, self.weight_hh, self.bias_hh)
        i_BH, f_BH, g_BH, o_BH = (projected_x + projected_h).chunk(4, dim=1)
        c_BH = torch.sigmoid(f_BH) * c_BH + torch.sigmoid(i_BH) * torch.tanh(g_BH)
        h_BH = torch.sigmoid(o_BH) * torch.tanh(c_BH)
        return h_BH, c_BH

    def gates(self, projected_x: Tensor, state: State) -> dict[str, Tensor]:
        """What `step` computes on the way, (B, H) each: (2), (4), (5), (7)."""
        projected_h = nn.functional.linear(state[0], self.weight_hh, self.bias_hh)
        i_BH, f_BH, g_BH, o_BH = (projected_x + projected_h).chunk(4, dim=1)
        return {
            "forget gate f": torch.sigmoid(f_BH),
            "input gate i": torch.sigmoid(i_BH),
            "candidate g": torch.tanh(g_BH),
            "output gate o": torch.sigmoid(o_BH),
        }


class GRUCell(Cell):
    """Gated recurrent unit, equations (9)-(12):

        z_t = sigmoid(W_z [h_{t-1}, x_t] + b_z)                (9)
        r_t = sigmoid(W_r [h_{t-1}, x_t] + b_r)                (10)
        n_t = tanh(W [r_t * h_{t-1}, x_t] + b)                 (11)  reset="before"
        n_t = tanh(W x_t + b_ih + r_t * (U h_{t-1} + b_hh))          reset="after"
        h_t = z_t * h_{t-1} + (1 - z_t) * n_t                  (12)

    The two differ in whether the reset gate acts before or after the product with the recurrent
    weights: "before" is the report's and Cho et al. 2014 (arXiv 1406.1078v3), "after" is PyTorch's
    and cuDNN's. They have the same parameters and are different functions of them.
    """

    def __init__(
        self, input_size: int, hidden_size: int, reset: Literal["before", "after"]
    ) -> None:
        super().__init__(input_size, hidden_size, gates=3)
        if reset not in ("before", "after"):
            raise ValueError(f"reset is 'before' or 'after', not {reset!r}")
        self.reset = reset

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        H = self.hidden_size
        x_rz, x_n = projected_x[:, : 2 * H], projected_x[:, 2 * H :]
        if self.reset == "after":
            projected_h = nn.functional.linear(h_BH, self.weight_hh, self.bias_hh)
            h_rz, h_n = projected_h[:, : 2 * H], projected_h[:, 2 * H :]
            r_BH, z_BH = torch.sigmoid(x_rz + h_rz).chunk(2, dim=1)
            n_BH = torch.tanh(x_n + r_BH * h_n)
        else:
            weight_rz, weight_n = self.weight_hh[: 2 * H], self.weight_hh[2 * H :]
            bias_rz, bias_n = self.bias_hh[: 2 * H], self.bias_hh[2 * H :]
            h_rz = nn.functional.linear(h_BH, weight_rz, bias_rz)
            r_BH, z_BH = torch.sigmoid(x_rz + h_rz).chunk(2, dim=1)
            n_BH = torch.tanh(x_n + nn.functional.linear(r_BH * h_BH, weight_n, bias_n))
        return (z_BH * h_BH + (1 - z_BH) * n_BH,)

    def gates(self, projected_x: Tensor, state: State) -> dict[str, Tensor]:
        """What `step` computes on the way, (B, H) each: (9), (10)."""
        H2 = 2 * self.hidden_size
        h_rz = nn.functional.linear(state[0], self.weight_hh[:H2], self.bias_hh[:H2])
        r_BH, z_BH = torch.sigmoid(projected_x[:, :H2] + h_rz).chunk(2, dim=1)
        return {"update gate z": z_BH, "reset gate r": r_BH}
