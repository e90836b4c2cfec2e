"""Elman's recurrent cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cell import Cell, State


class RNNCell(Cell):
    """Elman's cell, equation (1):

        h_t = tanh(W_h x_t + U_h h_{t-1} + b_h)

    The output y_t of (1) is the classifier's head. Source: Elman 1990, "Finding structure in time".
    """

    EQUATIONS = {"output h": r"h_t = \tanh(W_h x_t + U_h h_{t-1} + b_h) \quad (1)"}

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=1)

    def step(self, projected_x: Tensor, state: State) -> State:
        (h_BH,) = state
        projected_h = nn.functional.linear(h_BH, self.weight_hh, self.bias_hh)
        return (torch.tanh(projected_x + projected_h),)
