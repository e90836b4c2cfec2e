"""A cell of another library, as one of ours.

Dimensions: B reviews in the batch, I input size, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .cell import Cell, State


class ForeignCell(Cell):
    """A module with the calling convention of torch.nn's cells: `cell(input, state)`.

    It returns the new state: h, or a tuple (h, c, ...) of which h is the output. It takes the same,
    and without a state it starts from zeros.
    """

    def __init__(self, cell: nn.Module, input_size: int, hidden_size: int) -> None:
        """Calls the cell twice. Raises TypeError or ValueError if it has another convention."""
        nn.Module.__init__(self)
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            x_BI = self._zeros(2, input_size)
            after = cell(x_BI)
            found = (after,) if isinstance(after, Tensor) else after
            if not isinstance(found, tuple | list) or not all(isinstance(s, Tensor) for s in found):
                raise TypeError("it does not return a tensor or a tuple of tensors")
            cell(x_BI, after)
        self.single = isinstance(after, Tensor)
        shapes = [tuple(state.shape) for state in found]
        if shapes != [(2, hidden_size)] * max(1, len(shapes)):
            raise ValueError(
                f"its state has the shapes {shapes} for two reviews, not (2, {hidden_size}) each"
            )
        self.states = len(shapes)

    def initial_state(self, batch_size: int) -> State:
        return tuple(self._zeros(batch_size, self.hidden_size) for _ in range(self.states))

    def _zeros(self, *shape: int) -> Tensor:
        """Of the type and device of the cell's parameters."""
        like = next((p for p in self.cell.parameters() if p.is_floating_point()), torch.empty(0))
        return like.new_zeros(shape)

    def forward(self, x_BI: Tensor, state: State) -> State:
        after: Any = self.cell(x_BI, state[0] if self.single else tuple(state))
        return (after,) if self.single else tuple(after)
