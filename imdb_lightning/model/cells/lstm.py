"""Long short-term memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cell import Cell, State


class LSTMCell(Cell):
    """Long short-term memory, equations (2)-(8), state (h, C):

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

    EQUATIONS = {
        "forget gate f": r"f_t = \sigma([h_{t-1}, x_t] W_f + b_f) \quad (2)",
        "input gate i": r"i_t = \sigma([h_{t-1}, x_t] W_i + b_i) \quad (4)",
        "candidate g": r"g_t = \tanh([h_{t-1}, x_t] W_C + b_C) \quad (5)",
        "output gate o": r"o_t = \sigma([h_{t-1}, x_t] W_o + b_o) \quad (7)",
        "cell state C": r"C_t = f_t \odot C_{t-1} + i_t \odot g_t \quad (3), (6)",
        "output h": r"h_t = o_t \odot \tanh(C_t) \quad (8)",
    }
    STATES = ("output h", "cell state C")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, states=2)

    def step(self, projected_x: Tensor, state: State) -> State:
        _, c_BH = state
        i_BH, f_BH, g_BH, o_BH = self.gates(projected_x, state).values()
        c_BH = f_BH * c_BH + i_BH * g_BH
        return o_BH * torch.tanh(c_BH), c_BH

    def gates(self, projected_x: Tensor, state: State) -> dict[str, Tensor]:
        """(4), (2), (5) and (7), in the order of the parameters: (B, H) each."""
        projected_h = nn.functional.linear(state[0], self.weight_hh, self.bias_hh)
        i_BH, f_BH, g_BH, o_BH = (projected_x + projected_h).chunk(4, dim=1)
        return {
            "input gate i": torch.sigmoid(i_BH),
            "forget gate f": torch.sigmoid(f_BH),
            "candidate g": torch.tanh(g_BH),
            "output gate o": torch.sigmoid(o_BH),
        }
