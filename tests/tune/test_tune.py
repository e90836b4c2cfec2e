"""The learning rate finder.

pytest tests/tune
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from imdb_lightning.tune import __main__ as tune
from imdb_lightning.tune.learning_rate import BETA, find, smoothed, steepest
from tests.conftest import TINY, composed


MORE = [text for text in TINY if "train_size" not in text]


def test_the_average_starts_at_the_first_loss() -> None:
    """Lightning's own starts at half of it."""
    losses, average, theirs = [3.0, 1.0, 2.0], 0.0, []
    for step, loss in enumerate(losses, 1):
        average = BETA * average + (1 - BETA) * loss
        theirs.append(average / (1 - BETA ** (step + 1)))
    found = smoothed(theirs)
    assert found[0] == pytest.approx(3.0) and theirs[0] < 1.6
    assert found[1] == pytest.approx((BETA * 3 + 1) / (1 + BETA))


def test_the_steepest_descent_is_found() -> None:
    rates = [10 ** (n / 10 - 5) for n in range(51)]
    curve = [1 - 1 / (1 + math.exp(-4 * (math.log10(rate) + 3))) for rate in rates]
    assert steepest(rates, curve) == pytest.approx(1e-3)
    assert steepest(rates, sorted(curve)) is None


def test_it_finds_a_rate_at_which_the_loss_falls() -> None:
    found = find(composed(*MORE, "data.train_size=640", "model=gru"), 100, 1e-5, 1.0)
    assert len(found.rates) == len(found.losses) <= 100
    assert found.rates[0] >= 1e-5 and found.rates[-1] <= 1.0
    assert found.rates == sorted(found.rates)
    assert abs(found.losses[0] - math.log(2)) < 0.1
    assert found.suggested is None or 1e-4 < found.suggested < 1


def test_the_command_names_a_rate_draws_the_curve_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    easy = "data.train_size=1280 data.distance=0 model.hidden_size=32 model.embedding_size=32"
    options = ["--steps", "160", "--lowest", "1e-4", "--output", "lr.png"]
    arguments = ["lr", *MORE, *easy.split(), "model=gru", *options]
    tune.main(arguments)
    output = capsys.readouterr().out
    assert "the loss falls fastest at optim.lr=" in output
    assert {path.name for path in tmp_path.iterdir()} == {"lr.png"}
    drawn = (tmp_path / "lr.png").read_bytes()
    with pytest.raises(SystemExit) as end:
        tune.main(arguments)
    assert end.value.code == 2 and (tmp_path / "lr.png").read_bytes() == drawn
    for wrong in (["lr", "model=grru"], ["lr", "--highest", "x"], ["momentum"]):
        with pytest.raises(SystemExit) as end:
            tune.main(wrong)
        assert end.value.code == 2
