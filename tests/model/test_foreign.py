"""Cells of other libraries: torch.nn's, and those of torchrecurrent.

pytest tests/model/test_foreign.py -m "slow or not slow"
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from imdb_lightning import check_cell
from imdb_lightning.model.backbones import Unrolled
from imdb_lightning.model.cells import ForeignCell, State
from imdb_lightning.model.check import CellError
from imdb_lightning.model.fused import Fused
from imdb_lightning.model.kernels import library
from imdb_lightning.model.network import cell_factory
from tests.conftest import TINY, composed, train
from tests.model.test_native import assert_as_exact_as_the_loop, inputs


PAIRS = [(nn.RNNCell, nn.RNN), (nn.LSTMCell, nn.LSTM), (nn.GRUCell, nn.GRU)]


@pytest.mark.parametrize(("cell", "layer"), PAIRS)
def test_a_cell_of_pytorch_gives_what_its_layer_gives(
    cell: type[nn.Module], layer: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    theirs = layer(3, 5)
    mine = cell(3, 5)
    mine.load_state_dict({k.removesuffix("_l0"): v for k, v in theirs.state_dict().items()})
    adapted = cell_factory({"_target_": f"torch.nn.{cell.__name__}"})(3, 5)
    assert isinstance(adapted, ForeignCell)
    adapted.cell.load_state_dict(mine.state_dict())
    fused = Fused(adapted)
    x = torch.randn(6, 4, 3)
    torch.testing.assert_close(fused(x)[0], theirs(x)[0])
    if library.can_compile():
        assert fused.on_cpu.by == "C"


def test_one_is_trained_by_its_name(tmp_path: Path) -> None:
    options = ["model=custom_rnn", "model.cell._target_=torch.nn.GRUCell", "model.name=theirs"]
    assert train(composed(*TINY, *options), tmp_path)["status"] == "done"


def test_check_cell_takes_them() -> None:
    check_cell(nn.GRUCell(3, 4))
    with pytest.raises(CellError, match="Linear:\ncall: "):
        check_cell(nn.Linear(3, 4))


class Narrow(nn.Module):
    input_size, hidden_size = 3, 4

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, Tensor]:
        return x.new_zeros(len(x), 4), x.new_zeros(len(x), 2)


def test_what_it_does_not_keep_is_named() -> None:
    with pytest.raises(CellError, match=r"its state has the shapes \[\(2, 4\), \(2, 2\)\]"):
        check_cell(Narrow())


@pytest.mark.slow
@pytest.mark.skipif(not library.can_compile(), reason="no C compiler here")
@pytest.mark.skipif(find_spec("torchrecurrent") is None, reason="torchrecurrent is not installed")
def test_most_cells_of_torchrecurrent_are_generated_and_right() -> None:
    import torchrecurrent

    names = [name for name in dir(torchrecurrent) if name.endswith("Cell")]
    generated = 0
    for name in names:
        torch.manual_seed(0)
        try:
            cell = ForeignCell(getattr(torchrecurrent, name)(8, 8), 8, 8)
            layer = Fused(cell)
            x = torch.randn(3, 2, 8)
            h, _ = layer(x)
        except (TypeError, ValueError):  # another convention
            continue
        torch.testing.assert_close(h, Unrolled(cell)(x)[0], rtol=1e-4, atol=1e-5)
        if layer.on_cpu.by == "C":
            assert_as_exact_as_the_loop(cell, *inputs(cell, 6, 5, True, torch.float32))
            generated += 1
    assert (len(names), generated >= 36) == (41, True), generated
