"""The live line of a grid: what is swept first, the width of the terminal, the time left.

pytest tests/runs/test_live_line.py
"""

from __future__ import annotations

import pytest

from imdb_lightning.runs.live_line import State, labels, live_line, time_left


def test_a_label_is_what_is_swept_in_the_order_of_the_command_line() -> None:
    constant = ["data.max_length=100", "+trainer.limit_train_batches=4"]
    jobs = [
        ["model=gru", *constant, "experiment=report/a", "+model.cell.fault=x"],
        ["model=gru", *constant, "experiment=report/b", "+model.cell.fault=x"],
        ["model=lstm", *constant, "experiment=report/a", "+model.cell.fault=x"],
    ]
    assert labels(jobs) == ["model=gru,report/a", "model=gru,report/b", "model=lstm,report/a"]
    assert labels([["seed=0", "model=gru"]]) == [""] and labels([]) == []


@pytest.mark.parametrize("width", [*range(1, 50), 60, 80, 110, 200])
@pytest.mark.parametrize("left", [None, 250.0])
def test_the_line_fits(width: int, left: float | None) -> None:
    states = [State(f"model=custom_lstm,seed={n},optim.lr=0.001", n, 10) for n in range(4)]
    line = live_line(states, left, width)
    assert len(line) <= width
    if width >= 110:
        assert line.count("/10") == 4 and line.count("model=custom") == 4
    if width == 200:
        assert line.endswith(", ".join(f"{state.label} {state.epochs}/10" for state in states))
    if width == 60 and left:
        assert line == "about 04:10 left, model=custo.. 0/10, model=custo.. 1/10 +2"


def test_the_accuracy_follows_the_epochs() -> None:
    states = [State("model=gru", 3, 10, 0.8456), State("model=rnn", 0, 10)]
    assert live_line(states, None, 80) == "model=gru 3/10 0.846, model=rnn 0/10"
    assert all(len(live_line(states, 60, width)) <= width for width in range(1, 60))


def test_the_time_left_is_unknown_rather_than_wrong() -> None:
    assert time_left([], [(5.0, None), (3.0, None)], 2, 2) is None
    assert time_left([30.0], [(10.0, None), (20.0, None)], 2, 2) == (20 + 10 + 2 * 30) / 2
    assert time_left([], [(10.0, 40.0), (20.0, None)], 0, 2) == 30  # the slower of two
    assert time_left([30.0], [(10.0, 40.0)], 1, 1) == 30 + 35
    assert time_left([30.0], [(31.0, None)], 0, 1) is None  # it should be done by now
