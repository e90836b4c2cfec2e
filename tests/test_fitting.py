"""Training from Python.

pytest tests/test_fitting.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from imdb_lightning import FittedRun, fit, load
from imdb_lightning.plan import CommandLineError
from tests.conftest import TINY, command, python


def test_a_fitted_run_has_metrics_predictions_curves_and_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(*TINY, "model=custom_gru", directory="a run", quiet=True)
    assert capsys.readouterr() == ("", "")
    assert run.path == tmp_path / "a run"
    assert run.metrics["status"] == "done" and len(run.metrics["epochs"]) == 2
    table = run.predictions.to_pydict()
    tested = [row for row, split in enumerate(table["split"]) if split == "test"]
    right = sum((table["logit"][row] > 0) == table["label"][row] for row in tested)
    assert run.metrics["test/acc"] == right / len(tested)
    assert isinstance(run.curves, Figure)
    text = "a wonderful film"
    assert run.model.predict([text]) == load(run.path).predict([text])
    assert "custom_gru on synthetic, seed 0: test accuracy" in repr(run)
    assert "2 epochs" in repr(run) and "&lt;FittedRun" in run._repr_html_()


def test_it_trains_what_the_command_line_trains(tmp_path: Path) -> None:
    run = fit(*TINY, "model=rnn", directory=tmp_path / "run", quiet=True)
    assert command(tmp_path, *TINY, "model=rnn", "hydra.run.dir=other").returncode == 0
    other = FittedRun(tmp_path / "other")
    assert run.predictions.equals(other.predictions)
    # The command line resumes it.
    longer = command(tmp_path, "resume=run", "trainer.max_epochs=3")
    assert longer.returncode == 0, longer.stderr
    assert len(FittedRun(tmp_path / "run").metrics["epochs"]) == 3


@pytest.mark.slow
def test_it_shows_each_epoch_once(tmp_path: Path) -> None:
    done = python(
        tmp_path, "-c", f"import imdb_lightning; imdb_lightning.fit(*{TINY!r}, directory='run')"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 2/2") == 1
    assert done.stdout == "" and "acc=" not in done.stderr  # no bar without a terminal


def test_wrong_overrides_are_a_value_error_with_every_line(tmp_path: Path) -> None:
    with pytest.raises(CommandLineError) as error:
        fit("model=grru", "optim.lr=-1")
    assert len(error.value.args) == 2 and "did you mean gru?" in str(error.value)
    with pytest.raises(ValueError, match="several values are a grid"):
        fit(*TINY, "seed=0,1")
    with pytest.raises(ValueError, match="for the command line"):
        fit(*TINY, "resume=auto")
    with pytest.raises(ValueError, match="no finished run"):
        FittedRun(tmp_path)
    fit(*TINY, "trainer.max_epochs=1", directory="run", quiet=True)
    with pytest.raises(ValueError, match="already contains a run"):
        fit(*TINY, "trainer.max_epochs=1", directory="run", quiet=True)
