"""A recurrent layer, PyTorch's or a cell of equations, over whole sequences.

Dimensions: T time steps (tokens), B reviews, I input size, H hidden size, D directions.
Time comes first, as in PyTorch's layers. Reviews are padded on the right and never packed:
packing multiplies the step of PyTorch's layers by 5 to 100 on a CPU and excludes the fast kernel on
a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .cells import Cell, State
from .padding import padding_mask_like


class Unrolled(nn.Module):
    """One cell over time, step by step, with the calling convention of nn.RNN, nn.LSTM, nn.GRU."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(
        self, x_TBI: Tensor, state: State | None = None, lengths_B: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Output h_TBH of every step and the state after the last; without a state, from zeros.

        With `lengths_B` (int64 steps, 1 to T) a review's state, and with it its output, is carried
        forward after its own last step, and padding in x is not read.
        """
        if state is None:
            state = self.cell.initial_state(x_TBI.shape[1])
        padding_TB1 = padding_mask_like(x_TBI, lengths_B)
        if padding_TB1 is not None:
            x_TBI = x_TBI.masked_fill(padding_TB1, 0)
        return unroll(self.cell, x_TBI, state, padding_TB1)


def unroll(
    step: Callable[[Tensor, State], State],
    x_TBI: Tensor,
    state: State,
    padding_TB1: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Output h_TBH of every step and the last state, which is carried forward through padding."""
    outputs = []
    for t, x_BI in enumerate(x_TBI.unbind()):
        after = step(x_BI, state)
        if padding_TB1 is not None:
            pairs = zip(state, after, strict=True)
            after = tuple(torch.where(padding_TB1[t], old, new) for old, new in pairs)
        state = after
        outputs.append(state[0])
    return torch.stack(outputs), state


def refuse_second_derivative() -> None:
    """Raises RuntimeError in the backward pass of a fused cell if its gradient is wanted."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a fused cell has no second derivative; use model.implementation=loop for it"
        )


class Backbone(nn.Module):
    """`num_layers` recurrent layers in one direction, or in both side by side.

    `make_layer(input_size, hidden_size)` returns one layer of one direction: nn.RNN, nn.LSTM,
    nn.GRU or an `Unrolled` cell. The output of a review at its own steps depends neither on its
    padding nor on the other reviews: forwards because a step sees only the past, backwards because
    each review is reversed within its own length. Outputs at padded steps have no meaning, and a
    pooling ignores them.
    """

    def __init__(
        self,
        make_layer: Callable[[int, int], nn.Module],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.output_size = hidden_size * self.directions
        sizes = [input_size] + [self.output_size] * (num_layers - 1)
        self.forwards = nn.ModuleList(make_layer(size, hidden_size) for size in sizes)
        self.backwards = nn.ModuleList(
            make_layer(size, hidden_size) for size in (sizes if bidirectional else [])
        )
        self.dropout = nn.Dropout(dropout)

    def layers(self) -> Iterator[nn.Module]:
        """All layers, of both directions."""
        yield from self.forwards
        yield from self.backwards

    def forward(self, x_TBE: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states h_TB(H*D). x_TBE: float. lengths_B: int64 tokens, 1 to T."""
        if self.directions == 2:
            reversed_TB = reverse_padded(lengths_B, x_TBE.shape[0])
        for layer, forwards in enumerate(self.forwards):
            if layer > 0:
                x_TBE = self.dropout(x_TBE)
            h_TBH, _ = forwards(x_TBE)
            if self.directions == 2:
                back_TBH, _ = self.backwards[layer](gather_steps(x_TBE, reversed_TB))
                h_TBH = torch.cat([h_TBH, gather_steps(back_TBH, reversed_TB)], dim=2)
            x_TBE = h_TBH
        return x_TBE


def reverse_padded(lengths_B: Tensor, steps: int) -> Tensor:
    """Step indices (T, B) that reverse each review within its length; padding stays in place."""
    t_T1 = torch.arange(steps, device=lengths_B.device).unsqueeze(1)
    return torch.where(t_T1 < lengths_B, lengths_B - 1 - t_T1, t_T1)


def gather_steps(x_TBE: Tensor, steps_TB: Tensor) -> Tensor:
    """x at step steps_TB[t, b] of review b: (T, B, E)."""
    reviews = steps_TB.shape[1]
    rows_TB = steps_TB * reviews + torch.arange(reviews, device=steps_TB.device)
    # Whole rows: `gather` handles single numbers, and takes three times as long with its gradient.
    taken = x_TBE.flatten(0, 1).index_select(0, rows_TB.flatten())
    return taken.view(*steps_TB.shape, x_TBE.shape[2])
