"""The contract of a recurrent cell.

Dimensions: B reviews in the batch, I input size, H hidden size, G gates.

Conventions, all of them PyTorch's, so that a state_dict is interchangeable between these cells and
`torch.nn.RNNCell`, `LSTMCell`, `GRUCell`:

- A state is a tuple of (B, H) tensors; `state[0]` is the output h.
- weight_ih is (G*H, I), weight_hh (G*H, H), bias_ih and bias_hh (G*H,). The order of an LSTM's
  gates is i, f, g, o, that of a GRU's r, z, n.
- There are two biases. Where the report writes one b, read bias_ih + bias_hh; where it writes
  [h, x] W, read x weight_ih^T + h weight_hh^T.
- All parameters are initialised uniformly in +-1/sqrt(H).

Equation numbers are those of the course report that this project grew out of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn


State = tuple[Tensor, ...]


class Cell(nn.Module):
    """One time step of a recurrent network. Abstract: a cell defines `step`, or else `forward`.

    A cell knows nothing of time, padding, layers or direction. One of your own is a subclass with
    the constructor arguments `(input_size, hidden_size)`, which passes on how many gates its four
    parameters hold and how many tensors its state has. It writes its equations in `step`, as the
    cells here do, if the input enters only through W_ih x + b_ih: that product is then computed for
    many steps at once. Otherwise it writes them in `forward`.

    It may say more about itself, which `explain` shows: its equations in TeX by the names of its
    gates and states (`EQUATIONS`, `STATES`), and the gates of a step (`gates`, on which `step` is
    then written). `imdb_lightning.check_cell` checks the contract.
    """

    EQUATIONS: ClassVar[Mapping[str, str]] = {}
    STATES: ClassVar[tuple[str, ...]] = ("output h",)  # names of the tensors of a state

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
        """The next state, a tuple of (B, H) tensors. x_BI: float (B, I)."""
        return self.step(self.project(x_BI), state)

    def project(self, x: Tensor) -> Tensor:
        """The input's part of all gates, W_ih x + b_ih: (..., I) to (..., G*H)."""
        return nn.functional.linear(x, self.weight_ih, self.bias_ih)

    def step(self, projected_x: Tensor, state: State) -> State:
        """The next state. projected_x: (B, G*H), the result of `project`."""
        raise NotImplementedError

    def gates(self, projected_x: Tensor, state: State) -> dict[str, Tensor]:
        """Gates and candidates of a step by name, (B, H) each; none unless a cell defines them."""
        return {}

    def equations(self) -> dict[str, str]:
        """`EQUATIONS`; empty if they are those of a base class that computes another step."""
        return dict(self.EQUATIONS) if self.describes_itself("EQUATIONS") else {}

    @classmethod
    def describes_itself(cls, name: str) -> bool:
        """True if `name`, EQUATIONS, STATES or gates, was written for the step of this class.

        A subclass with another step inherits a description that is wrong.
        """
        methods = ("project", "step", "forward", *(() if name == "gates" else ("gates",)))
        definer = _definer(cls, name)
        return definer is not Cell and all(issubclass(definer, _definer(cls, m)) for m in methods)


def _definer(cls: type, name: str) -> type:
    """The class whose attribute `name` is that of `cls`."""
    return next(base for base in cls.__mro__ if name in vars(base))
