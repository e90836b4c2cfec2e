"""The CPU kernels of recurrent.c: from tensors to one call, forward and backward.

Dimensions: T steps, B reviews, I input size, H hidden size, G gates. IP and HP are I and H rounded
up to whole vectors of the processor, as recurrent.c lays out what it alone reads.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..cells import Cell, GRUCell, LSTMCell, RNNCell, State
from . import library


class Weights(NamedTuple):
    """A cell's four parameters, or their gradients: (G*H, I), (G*H, H), (G*H,), (G*H,)."""

    input: Tensor
    state: Tensor
    input_bias: Tensor
    state_bias: Tensor


class Layout(NamedTuple):
    """What recurrent.c makes of a cell; counts are of groups of HP columns."""

    number: int
    saved: int  # kept of a step for the backward pass
    gates: int  # sums that have a gradient


RNN, LSTM, GRU_AFTER, GRU_BEFORE = (
    Layout(0, 1, 1),
    Layout(1, 5, 4),
    Layout(2, 4, 4),
    Layout(3, 3, 3),
)

NUMBERS = ("cell", "threads", "T", "B", "I", "H", "grad_h_step")
POINTERS = (
    "lengths x input_weights state_weights bias h0 c0 h h_last c_last saved "
    "input_weights_t state_weights_t grad_h grad_h_last grad_c_last grad_x grad_h0 grad_c0 "
    "grad_input_weights grad_state_weights grad_bias"
).split()


def pad(tensor: Tensor, columns: int, rows: int = 0) -> Tensor:
    """With so many columns and rows of zeros more."""
    if columns or rows:
        return functional.pad(tensor, (0, columns, 0, rows) if rows else (0, columns))
    return tensor


class Sequence(ctypes.Structure):
    """struct sequence of recurrent.c."""

    _fields_ = [
        *((name, ctypes.c_long) for name in NUMBERS),
        *((name, ctypes.c_void_p) for name in POINTERS),
        ("out_of_memory", ctypes.c_long),
    ]


class Native:
    """The forward and backward pass of one kind of cell over whole sequences, in float32."""

    def __init__(self, layout: Layout, kernels: ctypes.CDLL) -> None:
        self.layout = layout
        self.kernels = kernels
        self.lanes = kernels.lanes()
        self.panel = kernels.panel_width()

    @classmethod
    def of(cls, cell: Cell) -> Native | None:
        """The passes of a cell of ours; None where the kernels cannot be built."""
        kernels = library.load()
        if kernels is None:
            return None
        if type(cell) is GRUCell:
            return cls(GRU_AFTER if cell.reset == "after" else GRU_BEFORE, kernels)
        return cls({RNNCell: RNN, LSTMCell: LSTM}[type(cell)], kernels)

    def forward(
        self, x_TBI: Tensor, weights: Weights, state: State, lengths_B: Tensor | None, keep: bool
    ) -> tuple[Tensor, State, tuple[Tensor, ...]]:
        """Output h_TBH, the last state, and where `keep` is set what `backward` needs besides."""
        T, B, _ = x_TBI.shape
        H = weights.state.shape[1]
        inputs, states = self._by_gates(weights)
        h_TBH = x_TBI.new_empty(T, B, H)
        last = tuple(torch.empty_like(s) for s in state)
        columns = self.layout.saved * self._whole(H)
        saved = x_TBI.new_empty(T, B, columns) if keep else None
        self._run(
            x_TBI,
            state,
            lengths_B,
            self._threads(x_TBI),
            input_weights=self._packed(inputs.mT),
            state_weights=torch.cat([self._packed(part.mT).flatten() for part in states]),
            bias=self._bias(weights),
            h=h_TBH,
            h_last=last[0],
            c_last=last[-1],
            saved=saved,
        )
        return h_TBH, last, () if saved is None else (saved,)

    def backward(
        self,
        x_TBI: Tensor,
        weights: Weights,
        state: State,
        lengths_B: Tensor | None,
        h_TBH: Tensor,
        saved: tuple[Tensor, ...],
        grad_h_TBH: Tensor,
        grad_last: State,
        wants_x: bool,
    ) -> tuple[Tensor | None, Weights, State]:
        """Gradients of the input (None unless `wants_x`), of the weights and of the first state."""
        inputs, states = self._by_gates(weights)
        threads = self._threads(x_TBI)
        I, H = x_TBI.shape[2], h_TBH.shape[2]
        IP, HP = self._whole(I), self._whole(H)
        if not grad_h_TBH[0].is_contiguous():  # one for all steps, as that of a mean, is taken so
            grad_h_TBH = grad_h_TBH.contiguous()
        grad_last = tuple(grad.contiguous() for grad in grad_last)
        grad_x_TBI = torch.empty_like(x_TBI) if wants_x else None
        grad_state = tuple(torch.empty_like(s) for s in state)
        state_rows = sum(len(part) for part in states)
        grad_input_weights = x_TBI.new_zeros(threads, len(inputs), IP)
        grad_state_weights = x_TBI.new_zeros(threads, state_rows, HP)
        grad_bias = x_TBI.new_zeros(threads, self.layout.gates * HP)
        self._run(
            x_TBI,
            state,
            lengths_B,
            threads,
            h=h_TBH,
            saved=saved[0],
            input_weights_t=self._packed(pad(inputs, IP - I)),
            state_weights_t=torch.cat(
                [self._packed(pad(part, HP - H)).flatten() for part in states]
            ),
            grad_h=grad_h_TBH,
            grad_h_last=grad_last[0],
            grad_c_last=grad_last[-1],
            grad_x=grad_x_TBI,
            grad_h0=grad_state[0],
            grad_c0=grad_state[-1],
            grad_input_weights=grad_input_weights,
            grad_state_weights=grad_state_weights,
            grad_bias=grad_bias,
        )
        grad_input_GHI = grad_input_weights.sum(0).view(-1, HP, IP)[:, :H, :I]
        grad_state_GHH = grad_state_weights.sum(0).view(-1, HP, HP)[:, :H, :H]
        bias_GH = grad_bias.sum(0).view(-1, HP)[:, :H]
        input_bias_GH = state_bias_GH = bias_GH
        if self.layout is GRU_AFTER:  # u r z n, as recurrent.c has them
            grad_state_GHH = grad_state_GHH.roll(-1, 0)
            input_bias_GH, state_bias_GH = bias_GH[1:], bias_GH[:3].roll(-1, 0)
        gradients = Weights(
            grad_input_GHI.reshape(-1, I),
            grad_state_GHH.reshape(-1, H),
            input_bias_GH.flatten(),
            state_bias_GH.flatten(),
        )
        return grad_x_TBI, gradients, grad_state

    def _run(
        self,
        x_TBI: Tensor,
        state: State,
        lengths_B: Tensor | None,
        threads: int,
        **tensors: Tensor | None,
    ) -> None:
        T, B, I = x_TBI.shape
        call = Sequence(self.layout.number, threads, T, B, I, state[0].shape[1])
        given = {"x": x_TBI, "lengths": lengths_B, "h0": state[0], "c0": state[-1], **tensors}
        for name, tensor in given.items():
            if tensor is not None:
                setattr(call, name, tensor.data_ptr())
        if (grad_h_TBH := given.get("grad_h")) is not None:
            call.grad_h_step = grad_h_TBH.stride(0)
        if self.kernels.run(ctypes.byref(call)):
            raise MemoryError("the recurrent kernel could not get its scratch memory")

    def _threads(self, x_TBI: Tensor) -> int:
        return min(torch.get_num_threads(), x_TBI.shape[1])

    def _whole(self, size: int) -> int:
        return -(-size // self.lanes) * self.lanes

    def _by_gates(self, weights: Weights) -> tuple[Tensor, list[Tensor]]:
        """Weights in recurrent.c's order of gates, each gate on HP rows: the input's, the state's.

        GRUs are special. "after": the candidate's share of the state comes first, so that the
        state's gates and the input's are neighbours. "before": it is a product of its own.
        """
        H = weights.state.shape[1]
        inputs_GHI = pad(weights.input.unflatten(0, (-1, H)), 0, self._whole(H) - H)
        states_GHH = pad(weights.state.unflatten(0, (-1, H)), 0, self._whole(H) - H)
        if self.layout is GRU_AFTER:
            states_GHH = states_GHH.roll(1, 0)
        parts = [states_GHH[:2], states_GHH[2:]] if self.layout is GRU_BEFORE else [states_GHH]
        return inputs_GHI.flatten(0, 1), [part.flatten(0, 1) for part in parts]

    def _bias(self, weights: Weights) -> Tensor:
        """What the gates' sums start from."""
        H = weights.state.shape[1]
        input_GH = weights.input_bias.unflatten(0, (-1, H))
        state_GH = weights.state_bias.unflatten(0, (-1, H))
        if self.layout is GRU_AFTER:
            both_GH = input_GH[:2] + state_GH[:2]
            sums_GH = torch.cat([state_GH[2:], both_GH, input_GH[2:]])
        else:
            sums_GH = input_GH + state_GH
        return pad(sums_GH, self._whole(H) - H).flatten()

    def _packed(self, matrix_KN: Tensor) -> Tensor:
        """Its columns in panels that a tile of the product reads from end to end."""
        K, N = matrix_KN.shape
        panels = -(-N // self.panel)
        padded_KN = pad(matrix_KN, panels * self.panel - N)
        return padded_KN.view(K, panels, self.panel).transpose(0, 1).contiguous()
