"""Recurrent cells: the equations of one time step, one cell in a file."""

from .cell import Cell, State
from .foreign import ForeignCell
from .gru import GRUCell
from .lstm import LSTMCell
from .rnn import RNNCell


__all__ = ["Cell", "ForeignCell", "GRUCell", "LSTMCell", "RNNCell", "State"]
