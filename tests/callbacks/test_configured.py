"""Lightning's callbacks by their names, and a user's class.

pytest tests/callbacks/test_configured.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import pytest
import torch

from imdb_lightning.config.components import CALLBACKS, LOGGERS, PACKAGES, REFUSED_CALLBACKS
from imdb_lightning.config.overrides import check_command_line
from imdb_lightning.preflight import check_components
from imdb_lightning.runs.run import Run
from imdb_lightning.train import train
from tests.conftest import TINY, command, composed
from tests.loggers.test_loggers import of_csv
from tests.reliability import processes
from tests.reliability.processes import SMALL, Moment, differences


STEP = "imdb_lightning.model.classifier:Classifier.training_step"
BATCHES = 8  # of an epoch of TINY
P = "callbacks.early_stopping.patience=3"


def trained(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    return train(composed(*TINY, "model=rnn", *overrides), tmp_path / "run")


def test_the_names_are_lightnings() -> None:
    for name in CALLBACKS.values():
        assert issubclass(getattr(lightning.pytorch.callbacks, name), lightning.Callback)
    theirs = {
        re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", name).lower()
        for name in lightning.pytorch.callbacks.__all__
    }
    base = {"callback", "checkpoint", "progress_bar", "base_finetuning", "lambda_callback"}
    unknown = {"throughput_monitor", "spike_detection", "lambda_callback"}
    decided = {*CALLBACKS, *REFUSED_CALLBACKS, *base, *unknown}
    assert theirs - decided <= {"tqdm_progress_bar"}, theirs - decided
    assert {*LOGGERS.values()} == {*lightning.pytorch.loggers.__all__} - {"Logger"}
    assert {*PACKAGES} <= {*CALLBACKS, *LOGGERS}


def test_early_stopping_with_patience(tmp_path: Path) -> None:
    still = ["callbacks=early_stopping", "optim.lr=1e-12", "trainer.max_epochs=9"]
    assert len(trained(tmp_path / "1", *still)["epochs"]) == 4
    assert (
        len(trained(tmp_path / "2", *still, "callbacks.early_stopping.patience=1")["epochs"]) == 2
    )
    loss = ["++callbacks.early_stopping.monitor=val/loss", "++callbacks.early_stopping.mode=min"]
    often = ["++callbacks.early_stopping.stopping_threshold=9"]
    assert len(trained(tmp_path / "3", *still, *loss, *often)["epochs"]) == 1


def test_several_callbacks_at_once(tmp_path: Path) -> None:
    both = "callbacks=[learning_rate_monitor,early_stopping]"
    trained(tmp_path, both, "schedule=cosine", "logger=csv", "++trainer.log_every_n_steps=1")
    history = of_csv(Run(tmp_path / "run"))
    assert [value for _, value in history["lr-Adam"]] == pytest.approx(
        [value for _, value in history["lr"]]
    )
    assert history["lr-Adam"][0][1] > history["lr-Adam"][-1][1]


def test_the_summary_names_each_module_and_its_parameters(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        trained(tmp_path, "callbacks=model_summary", "callbacks.model_summary.max_depth=1")
    lines = [re.sub(" +", " ", record.getMessage()).strip() for record in caplog.records]
    assert "backbone Backbone 144" in lines
    assert not any(line.startswith("word_dropout") for line in lines)


def test_a_timer_ends_a_run(tmp_path: Path) -> None:
    timer = ["callbacks=timer", "callbacks.timer.duration=00:00:00:01"]
    metrics = trained(tmp_path, *timer, "trainer.max_epochs=1000000")
    assert metrics["status"] == "done" and len(metrics["epochs"]) < 10_000


def test_gradients_are_accumulated_by_epoch(tmp_path: Path) -> None:
    name = "callbacks.gradient_accumulation_scheduler"
    trained(tmp_path, f"callbacks={name.split('.')[1]}", f"{name}.scheduling={{0:2,1:4}}")
    assert Run(tmp_path / "run").metrics["steps"] == BATCHES // 2 + BATCHES // 4


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["callbacks=stochastic_weight_avg"], "optim.ema_decay=0.999 averages the weights"),
        (["callbacks=early_stoping"], "did you mean early_stopping?"),
        (["callbacks=[timer,tiner]"], "did you mean timer?"),
        (["callbacks.early_stoping.patience=3"], "did you mean early_stopping?"),
        (["callbacks.model_checkpoint.save_top_k=3"], "a run keeps its best and its last"),
        (["logger=tensorbord"], "did you mean tensorboard?"),
        (["logger.clear_ml.project=x"], "not one of Lightning's"),
        (["logger.mine._target_=a.B"], "not one of Lightning's"),
        (["logger.wandb.project=x"], "needs logger=wandb"),
        (["logger=csv", "logger.csv.name=x"], "it writes into the run's directory"),
        (["callbacks.early_stopping.monitor=nope", P], "one of val/acc, val/loss"),
        (["callbacks.early_stopping.min_delta=0.1"], "needs a patience"),
        (["optim.name=sgd"], "write optim=sgd"),
        (["trainer.min_epochs=5", "trainer.max_epochs=2"], "more than trainer.max_epochs=2"),
        (["trainer.gradient_clip_algorithm=value"], "needs trainer.gradient_clip_val"),
        (
            [
                "callbacks.gradient_accumulation_scheduler.scheduling={0:2}",
                "schedule=cosine",
            ],
            "choose another schedule",
        ),
        (["callbacks.early_stopping.patience=0"], "an integer >= 1"),
    ],
)
def test_a_wrong_name_is_one_line(overrides: list[str], line: str) -> None:
    (found,) = check_command_line(overrides).errors
    assert line in found


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["callbacks.early_stopping.patince=3", P], "unexpected keyword argument 'patince'"),
        (["callbacks=early_stopping", "callbacks.early_stopping.mode=up"], "mode"),
        (["callbacks.mine._target_=nowhere.Mine"], "No module named 'nowhere'"),
        (["callbacks.mine._target_=torch.nn.Linear"], "callbacks.mine:"),
        (["logger=csv", "logger.csv.flush=3"], "unexpected keyword argument 'flush'"),
        (["logger.tensorboard.flush=3"], "unexpected keyword argument 'flush'"),
        (["callbacks.gradient_accumulation_scheduler.frequency=3"], "'frequency'"),
    ],
)
def test_a_wrong_argument_is_one_line(overrides: list[str], line: str) -> None:
    checked = check_command_line(overrides)
    assert checked.errors == []
    (found,) = check_components(checked.jobs)
    assert line in found and "\n" not in found


MINE = """
import lightning

class Mine(lightning.Callback):
    def __init__(self, add):
        self.add, self.total = add, 0
    def on_train_batch_end(self, *_):
        self.total += self.add
    def on_test_end(self, *_):
        open("total", "w").write(str(self.total))
    def state_dict(self):
        return {"total": self.total}
    def load_state_dict(self, state):
        self.total = state["total"]
"""


def test_a_callback_of_ones_own_is_resumed_with_its_state_and_with_consent(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    options = ["callbacks.mine._target_=mine.Mine", "callbacks.mine.add=2"]
    processes.run(tmp_path, *SMALL, *options, moment=Moment(STEP, 16))
    refused = command(tmp_path, "resume=run")
    assert refused.returncode == 2
    assert "add callbacks.mine._target_=mine.Mine to run its code" in refused.stderr
    again = ["resume=run", "callbacks.mine._target_=mine.Mine"]
    assert processes.command(tmp_path, *again) == 0, processes.output_of(tmp_path)
    assert (tmp_path / "total").read_text() == "60"  # thirty steps
    # With a folder of configurations too, the run itself cannot name a class.
    (tmp_path / "conf").mkdir()
    more = ["resume=run", "trainer.max_epochs=4", "--config-dir", "conf"]
    assert "to run its code" in command(tmp_path, *more).stderr
    from imdb_lightning import load

    assert load(tmp_path / "run").predict(["a film"])  # which needs no code of the callback's


def test_no_callback_and_no_logger(tmp_path: Path) -> None:
    metrics = trained(tmp_path, "callbacks=[]", "logger=[]")
    assert metrics["status"] == "done"
    assert not [*(tmp_path / "run").glob("events.out.tfevents.*")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "callbacks=[early_stopping,learning_rate_monitor] schedule=step",
        "callbacks=gradient_accumulation_scheduler "
        "callbacks.gradient_accumulation_scheduler.scheduling={0:1,1:2}",
    ],
)
def test_callbacks_are_resumed_to_the_same_bits(options: str, tmp_path: Path) -> None:
    for step in (16, 6):
        processes.run(tmp_path, *SMALL, *options.split(), moment=Moment(STEP, step))
    resumed = processes.run(tmp_path, *SMALL, *options.split())
    whole = processes.run(tmp_path / "whole", *SMALL, *options.split())
    assert differences(whole, resumed) == []
    states = torch.load(Run(resumed).last, weights_only=True)["callbacks"]
    assert bool(states) == ("early_stopping" in options)
