"""Export to torch.export's .pt2.

Every layer becomes a scan of its cell over time, since torch.export unrolls PyTorch's layers for
the one length that it sees.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from ..model.cells import Cell, GRUCell, LSTMCell, RNNCell
from ..model.network import Network
from .runner import ExportError, Runner


class ScanRNN(nn.Module):
    """A cell over time, with the calling convention of nn.RNN, nn.LSTM, nn.GRU."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_TBI: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        def step(
            state: tuple[Tensor, ...], projected_x: Tensor
        ) -> tuple[tuple[Tensor, ...], Tensor]:
            after = self.cell.step(projected_x, state)
            # Outputs of a scan may not be the same tensor.
            return tuple(s.clone() for s in after), after[0].clone()

        state = self.cell.initial_state(x_TBI.shape[1])
        last, h_TBH = scan(step, state, self.cell.project(x_TBI), dim=0)
        return h_TBH, last


def as_cell(layer: Any) -> Cell:
    """The cell of a layer; PyTorch's layers as the cells of the same mathematics."""
    cell = getattr(layer, "cell", None)
    if isinstance(cell, Cell):
        if type(cell).forward is not Cell.forward:
            raise ExportError(f"{type(cell).__name__} has no `step`, which pt2 needs")
        return cell
    sizes = (layer.input_size, layer.hidden_size)
    makers = {
        nn.RNN: lambda: RNNCell(*sizes),
        nn.LSTM: lambda: LSTMCell(*sizes),
        nn.GRU: lambda: GRUCell(*sizes, reset="after"),
    }
    cell = makers[type(layer)]()
    cell.load_state_dict({key[: -len("_l0")]: value for key, value in layer.state_dict().items()})
    return cell


def write_pt2(network: Network, file: Path) -> Runner:
    scanned = copy.deepcopy(network)
    for layers in (scanned.backbone.forwards, scanned.backbone.backwards):
        for number, layer in enumerate(layers):
            layers[number] = ScanRNN(as_cell(layer))
    longest = network.max_length if network.pooling == "mean_padded" else None
    B, T = torch.export.Dim("B"), torch.export.Dim("T", max=longest)
    example = (torch.ones(3, 7, dtype=torch.int64), torch.tensor([7, 3, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own code (2026-11)
        torch._dynamo.reset()  # the cache of another export would fix the length
        program = torch.export.export(scanned, example, dynamic_shapes=({0: B, 1: T}, {0: B}))
        torch.export.save(program, file)
        loaded = torch.export.load(file).module()

    def run(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        with torch.inference_mode():
            return loaded(tokens_BT, lengths_B)

    return run
