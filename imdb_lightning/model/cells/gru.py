"""Gated recurrent unit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .cell import Cell, State


class GRUCell(Cell):
    """Gated recurrent unit, equations (9)-(12):

        z_t = sigmoid(W_z [h_{t-1}, x_t] + b_z)                (9)
        r_t = sigmoid(W_r [h_{t-1}, x_t] + b_r)                (10)
        n_t = tanh(W [r_t * h_{t-1}, x_t] + b)                 (11)  reset="before"
        n_t = tanh(W x_t + b_ih + r_t * (U h_{t-1} + b_hh))          reset="after"
        h_t = z_t * h_{t-1} + (1 - z_t) * n_t                  (12)

    The variants differ in whether the reset gate acts before or after the recurrent product:
    "before" is the report's and Cho et al. 2014 (arXiv 1406.1078v3), "after" is PyTorch's and
    cuDNN's. They have the same parameters and are different functions of them.
    """

    EQUATIONS = {
        "update gate z": r"z_t = \sigma(W_z [h_{t-1}, x_t] + b_z) \quad (9)",
        "reset gate r": r"r_t = \sigma(W_r [h_{t-1}, x_t] + b_r) \quad (10)",
        "output h": r"h_t = z_t \odot h_{t-1} + (1 - z_t) \odot n_t \quad (12)",
    }
    CANDIDATE = {
        "before": r"n_t = \tanh(W [r_t \odot h_{t-1}, x_t] + b) \quad (11)",
        "after": r"n_t = \tanh(W x_t + b_{ih} + r_t \odot (U h_{t-1} + b_{hh}))",
    }

    def __init__(
        self, input_size: int, hidden_size: int, reset: Literal["before", "after"]
    ) -> None:
        super().__init__(input_size, hidden_size, gates=3)
        if reset not in ("before", "after"):
            raise ValueError(f"reset must be 'before' or 'after', not {reset!r}")
        self.reset = reset

    def equations(self) -> dict[str, str]:
        known = super().equations()
        return known and {**known, "candidate n": self.CANDIDATE[self.reset]}

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        r_BH, z_BH, n_BH = self.gates(projected_x, state).values()
        return (z_BH * h_BH + (1 - z_BH) * n_BH,)

    def gates(self, projected_x: Tensor, state: State) -> dict[str, Tensor]:
        """(10), (9) and (11), in the order of the parameters: (B, H) each."""
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
        return {"reset gate r": r_BH, "update gate z": z_BH, "candidate n": n_BH}
