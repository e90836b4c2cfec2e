"""The command that prints what is generated, and the text of two cells.

pytest tests/model/test_kernel_command.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from imdb_lightning.kernel import main


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lstm", ["imdb_lightning.LSTMCell"]),
        ("minimal", ["tests.model.papers.MinimalGatedUnit"]),
    ],
)
def test_the_c_of_a_cell_is_as_it_was(
    name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """To accept a change: python -m imdb_lightning.kernel CELL > tests/model/golden/NAME.c"""
    main(arguments)
    assert capsys.readouterr().out == (GOLDEN / f"{name}.c").read_text("utf-8")


def test_triton_is_printed_too(capsys: pytest.CaptureFixture[str]) -> None:
    main(["imdb_lightning.GRUCell", "reset=before", "--triton"])
    text = capsys.readouterr().out
    assert "def forward(" in text and "def backward(" in text


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("torch.nn.Linear", "imdb_lightning.kernel: torch.nn.Linear: "),
        ("no.such.Cell", "imdb_lightning.kernel: no.such.Cell: ModuleNotFoundError"),
    ],
)
def test_what_is_no_cell_is_one_line(
    cell: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([cell])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
