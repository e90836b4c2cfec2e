"""Cells that the package does not have, each transcribed from its paper, for the generator's tests.

Dimensions: B reviews, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, logsigmoid, softplus

from imdb_lightning import Cell, GRUCell, LSTMCell, RNNCell
from imdb_lightning.model.cells import State


class PeepholeLSTM(Cell):
    """Gates that see the cell state. Gers and Schmidhuber 2000, "Recurrent nets that time and
    count"."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, states=2)
        self.peephole = nn.Parameter(torch.empty(3, hidden_size).uniform_(-0.1, 0.1))

    def step(self, projected_x: Tensor, state: State) -> State:
        h_BH, c_BH = state
        sums = projected_x + linear(h_BH, self.weight_hh, self.bias_hh)
        i_BH, f_BH, g_BH, o_BH = sums.chunk(4, dim=1)
        i_BH = torch.sigmoid(i_BH + self.peephole[0] * c_BH)
        f_BH = torch.sigmoid(f_BH + self.peephole[1] * c_BH)
        c_BH = f_BH * c_BH + i_BH * torch.tanh(g_BH)
        o_BH = torch.sigmoid(o_BH + self.peephole[2] * c_BH)
        return o_BH * torch.tanh(c_BH), c_BH


class CoupledLSTM(Cell):
    """What is forgotten is what is written. Greff et al. 2017, arXiv 1503.04069, "CIFG"."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=3, states=2)

    def step(self, projected_x: Tensor, state: State) -> State:
        h_BH, c_BH = state
        sums = projected_x + linear(h_BH, self.weight_hh, self.bias_hh)
        f_BH, g_BH, o_BH = sums.chunk(3, dim=1)
        f_BH = torch.sigmoid(f_BH)
        c_BH = f_BH * c_BH + (1 - f_BH) * torch.tanh(g_BH)
        return torch.sigmoid(o_BH) * torch.tanh(c_BH), c_BH


class LayerNormLSTM(Cell):
    """Ba, Kiros and Hinton 2016, arXiv 1607.06450, equations (20)-(22), here of W h alone.

    Gains start at 0.1, as in Cooijmans et al. 2016, arXiv 1603.09025: at 1 gradients explode.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, states=2)
        self.gain = nn.Parameter(torch.full((4 * hidden_size,), 0.1))
        self.shift = nn.Parameter(torch.zeros(4 * hidden_size))

    def step(self, projected_x: Tensor, state: State) -> State:
        h_BH, c_BH = state
        size = (4 * self.hidden_size,)
        normed = layer_norm(linear(h_BH, self.weight_hh), size, self.gain, self.shift)
        i_BH, f_BH, g_BH, o_BH = (projected_x + normed + self.bias_hh).chunk(4, dim=1)
        c_BH = torch.sigmoid(f_BH) * c_BH + torch.sigmoid(i_BH) * torch.tanh(g_BH)
        return torch.sigmoid(o_BH) * torch.tanh(c_BH), c_BH


class MinimalGatedUnit(Cell):
    """Zhou et al. 2016, arXiv 1603.09420: one gate, in two products one after the other."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=2)

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        H = self.hidden_size
        x_f, x_n = projected_x.chunk(2, dim=1)
        f_BH = torch.sigmoid(x_f + linear(h_BH, self.weight_hh[:H], self.bias_hh[:H]))
        n_BH = torch.tanh(x_n + linear(f_BH * h_BH, self.weight_hh[H:], self.bias_hh[H:]))
        return ((1 - f_BH) * h_BH + f_BH * n_BH,)


class IndRNN(Cell):
    """Units that see themselves alone. Li et al. 2018, arXiv 1803.04831."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=1)
        del self.bias_hh
        self.weight_hh = nn.Parameter(torch.empty(hidden_size).uniform_(0, 1))

    def step(self, projected_x: Tensor, state: State) -> State:
        return (torch.relu(projected_x + self.weight_hh * state[0]),)


class FastGRNN(Cell):
    """One matrix for gate and candidate, two numbers. Kusupati et al. 2018, arXiv 1901.02358."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=1)
        self.bias_z = nn.Parameter(torch.ones(hidden_size))
        self.zeta = nn.Parameter(torch.tensor(1.0))
        self.nu = nn.Parameter(torch.tensor([-4.0]))

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        total = projected_x + linear(h_BH, self.weight_hh)
        z_BH = torch.sigmoid(total + self.bias_z)
        n_BH = torch.tanh(total + self.bias_hh)
        kept = torch.sigmoid(self.zeta) * (1 - z_BH) + torch.sigmoid(self.nu)
        return (kept * n_BH + z_BH * h_BH,)


class ChainedCell(Cell):
    """Of no paper: two products one after the other, softplus, exp and where."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=2)
        self.mix = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        a_BH, b_BH = (projected_x + linear(h_BH, self.weight_hh, self.bias_hh)).chunk(2, dim=1)
        u_BH = softplus(a_BH)
        u_BH = torch.where(u_BH > 1.0, 2.0 - torch.exp(1.0 - u_BH), u_BH)
        v_BH = torch.tanh(linear(u_BH * h_BH, self.mix) + b_BH)
        return (h_BH + 0.5 * torch.exp(-u_BH) * (v_BH - h_BH),)


class JANET(Cell):
    """Forget gate alone. van der Westhuizen and Lasenby 2018, arXiv 1804.04849, with beta 1."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=2)

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        sums = projected_x + linear(h_BH, self.weight_hh, self.bias_hh)
        s_BH, n_BH = sums.chunk(2, dim=1)
        return (torch.sigmoid(s_BH) * h_BH + (1 - torch.sigmoid(s_BH - 1)) * torch.tanh(n_BH),)


class LiGRU(Cell):
    """No reset gate, ReLU. Ravanelli et al. 2018, arXiv 1803.10225, without normalization."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=2)

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        sums = projected_x + linear(h_BH, self.weight_hh, self.bias_hh)
        z_BH, n_BH = sums.chunk(2, dim=1)
        z_BH = torch.sigmoid(z_BH)
        return (z_BH * h_BH + (1 - z_BH) * torch.relu(n_BH),)


class SLSTM(Cell):
    """Exponential gates and their stabiliser m. Beck et al. 2024, arXiv 2405.04517, equations
    (8)-(17), one head; n is at least 1 here, as in their (21), for any first state."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, states=4)

    def step(self, projected_x: Tensor, state: State) -> State:
        h_BH, c_BH, n_BH, m_BH = state
        sums = projected_x + linear(h_BH, self.weight_hh, self.bias_hh)
        i_BH, f_BH, z_BH, o_BH = sums.chunk(4, dim=1)
        kept_BH = logsigmoid(f_BH) + m_BH
        m_BH = torch.maximum(kept_BH, i_BH)
        i_BH, f_BH = torch.exp(i_BH - m_BH), torch.exp(kept_BH - m_BH)
        c_BH = f_BH * c_BH + i_BH * torch.tanh(z_BH)
        n_BH = f_BH * n_BH + i_BH
        h_BH = torch.sigmoid(o_BH) * c_BH / n_BH.abs().clamp(min=1)
        return h_BH, c_BH, n_BH, m_BH


class HighwayCell(Cell):
    """The input beside its product, where both are of one size. Zilly et al. 2017, arXiv
    1607.03474, at depth one, with the input carried."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=2)

    def forward(self, x_BI: Tensor, state: State) -> State:
        (h_BH,) = state
        sums = self.project(x_BI) + linear(h_BH, self.weight_hh, self.bias_hh)
        t_BH, n_BH = sums.chunk(2, dim=1)
        t_BH = torch.sigmoid(t_BH)
        return (t_BH * torch.tanh(n_BH) + (1 - t_BH) * (0.5 * h_BH + 0.5 * x_BI),)


CELLS: dict[str, Callable[[int, int], Cell]] = {
    "rnn": RNNCell,
    "lstm": LSTMCell,
    "gru after": lambda i, h: GRUCell(i, h, reset="after"),
    "gru before": lambda i, h: GRUCell(i, h, reset="before"),
    "peephole": PeepholeLSTM,
    "coupled": CoupledLSTM,
    "layer norm": LayerNormLSTM,
    "minimal": MinimalGatedUnit,
    "indrnn": IndRNN,
    "fastgrnn": FastGRNN,
    "chained": ChainedCell,
    "janet": JANET,
    "ligru": LiGRU,
    "slstm": SLSTM,
}
