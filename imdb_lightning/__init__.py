"""A benchmark for recurrent text classifiers: RNN, LSTM and GRU on IMDB film reviews.

    python -m imdb_lightning model=gru trainer.max_epochs=10
    imdb_lightning.fit("model=gru", "trainer.max_epochs=10")

The way from this command to the equations: `__main__.main` -> `train.train` ->
`model.classifier.Classifier._step` -> `model.backbones.Backbone.forward`, and from there for
`model.implementation=loop` `model.cells.GRUCell.step`; for `fused` a kernel of the same mathematics
in `model.fused` and `model/kernels/`; for PyTorch's layers `torch.nn.GRU.forward`.
"""

import os
from typing import TYPE_CHECKING, Any

from .runtime.version import __version__ as __version__


if TYPE_CHECKING:
    from .fitting import FittedRun as FittedRun
    from .fitting import fit as fit
    from .inference import load as load
    from .model.cells import Cell as Cell
    from .model.cells import GRUCell as GRUCell
    from .model.cells import LSTMCell as LSTMCell
    from .model.cells import RNNCell as RNNCell
    from .model.check import check_cell as check_cell

for _name in ("IMDB_DATA", "IMDB_LIGHTNING_CACHE"):
    if os.environ.get(_name) == "":  # set but empty is unset, for every reader
        del os.environ[_name]

__all__ = ["Cell", "FittedRun", "GRUCell", "LSTMCell", "RNNCell", "check_cell", "fit", "load"]


def __getattr__(name: str) -> Any:
    # Lazily, since torch takes seconds to import and --help does not need it.
    if name == "check_cell":
        from .model.check import check_cell

        return check_cell
    if name in ("fit", "FittedRun"):
        from . import fitting

        return getattr(fitting, name)
    if name == "load":
        from .inference import load

        return load
    if name in __all__:
        from .model import cells

        return getattr(cells, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
