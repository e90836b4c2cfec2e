"""The cells that cuDNN has, run by cuDNN with the cell's own parameters.

Dimensions: T steps, B reviews, I input size, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.backends.cudnn.rnn import get_cudnn_mode

from ..cells import GRUCell, LSTMCell, RNNCell, State
from . import precision


def mode_of(cell: Any) -> str | None:
    """cuDNN's name for the cell; None where it has no such cell."""
    if type(cell) is GRUCell:
        return "GRU" if cell.reset == "after" else None
    return {RNNCell: "RNN_TANH", LSTMCell: "LSTM"}.get(type(cell))


def run(mode: str, cell: Any, x_TBI: Tensor, state: State) -> tuple[Tensor, State]:
    """Output h_TBH of every step and the last state, of sequences of full length."""
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    _flatten(mode, cell, weights)
    hx = [s.unsqueeze(0) for s in state]
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    options = True, 1, 0.0, torch.is_grad_enabled(), False, False
    if mode == "LSTM":
        h_TBH, *last = torch._VF.lstm(x_TBI, hx, weights, *options)
    else:
        function = torch._VF.gru if mode == "GRU" else torch._VF.rnn_tanh
        h_TBH, *last = function(x_TBI, hx[0], weights, *options)
    return h_TBH, tuple(s.squeeze(0) for s in last)


def _flatten(mode: str, cell: Any, weights: list[Tensor]) -> None:
    """Put the parameters behind one another, as cuDNN reads them: else it copies them each time."""
    places = tuple(weight.data_ptr() for weight in weights)
    if getattr(cell, "_flattened", None) == places or torch.cuda.is_current_stream_capturing():
        return
    number = int(get_cudnn_mode(mode))
    with torch.inference_mode(False), torch.no_grad():
        torch._cudnn_rnn_flatten_weight(
            weights, len(weights), cell.input_size, number, cell.hidden_size, 0, 1, False, False
        )
    cell._flattened = tuple(weight.data_ptr() for weight in weights)


def can(x_TBI: Tensor) -> bool:
    """Whether cuDNN takes such an input."""
    return x_TBI.dtype != torch.float64 and torch.backends.cudnn.is_acceptable(x_TBI)


def is_faster(mode: str, x_TBI: Tensor, H: int) -> bool:
    """Whether cuDNN takes less of a GPU's time than a generated kernel does; measured on an H100,
    docs/performance.md."""
    B = x_TBI.shape[1]
    if x_TBI.dtype != torch.float32:
        return True
    if not precision.is_tf32():
        return mode == "RNN_TANH" or H <= 128 or B > 64
    return B <= 128 and (mode == "RNN_TANH" or (mode == "LSTM" and H <= 128))
