"""Recurrent cells: the equations of one time step, one cell in a file."""

from .cell import Cell, State
from .gru import GRUCell
from .lstm import LSTMCell
from .rnn import RNNCell


__all__ = ["Cell", "GRUCell", "LSTMCell", "RNNCell", "State"]
