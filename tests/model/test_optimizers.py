"""The optimizers and the learning rate schedules: torch's, step by step.

pytest tests/model/test_optimizers.py
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, StepLR

from imdb_lightning.data.datamodule import ReviewDataModule
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.model.optimizers import OPTIMIZERS, OURS, make_optimizer
from imdb_lightning.model.schedules import one_cycle
from imdb_lightning.runtime import process
from tests.conftest import TINY, composed, plain_trainer, run_of


STEPS = 8  # of an epoch of TINY


def fit(
    tmp_path: Path, *overrides: str, epochs: int = 3, **options: Any
) -> tuple[Any, list[float]]:
    """A classifier after training in float64, and the learning rate of each step."""
    cfg = composed(*TINY, *overrides)
    lightning.seed_everything(0, verbose=False)
    process.ignore_lightning_warnings()
    model = Classifier.from_config(cfg.model, cfg.optim, cfg.schedule).double()
    rates: list[float] = []

    class Watch(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    with process.preserve_global_state():
        trainer = plain_trainer(tmp_path, max_epochs=epochs, callbacks=[Watch()], **options)
        trainer.fit(model, datamodule=ReviewDataModule(cfg.data, 0))
    return model, rates


# A value of each option that is not its default; one that torch would refuse is no test.
OTHERS: dict[str, Any] = {
    **{"lr": 0.03, "weight_decay": 0.05, "betas": [0.5, 0.9], "eps": 0.1, "amsgrad": True},
    **{"momentum": 0.5, "dampening": 0.1, "nesterov": True, "alpha": 0.5, "centered": True},
    **{"momentum_decay": 0.1, "decoupled_weight_decay": True, "lr_decay": 0.1},
    "initial_accumulator_value": 0.5,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_torchs_steps_with_every_option(name: str) -> None:
    """Each option alone changes the weights, to those of torch's optimizer with that argument."""
    optim = {**composed(f"optim={name}").optim}
    if "betas" in optim:
        optim["betas"] = [0.9, 0.8]  # the average of the squares falls again
    options = {key for key in optim if key not in OURS}
    theirs = set(inspect.signature(OPTIMIZERS[name]).parameters)
    left_to_torch = {"params", "foreach", "maximize", "capturable", "differentiable", "fused"}
    if name.startswith("adam"):
        left_to_torch |= {"decoupled_weight_decay"}  # adamw is adam with it
    assert options == theirs - left_to_torch

    def weights(make: Any) -> torch.Tensor:
        weight = torch.linspace(-1, 1, 5, requires_grad=True)
        optimizer = make([{"params": [weight]}])
        for step in range(12):
            optimizer.zero_grad()
            ((12 - step) * (weight - 3) ** 3 / 500).sum().backward()
            optimizer.step()
        return weight.detach()

    usual = weights(lambda groups: make_optimizer(optim, groups, on_cpu=True))
    for option in sorted(options):
        changed = {**optim, option: OTHERS[option]}
        found = weights(lambda groups, c=changed: make_optimizer(c, groups, on_cpu=True))
        given = {k: tuple(v) if k == "betas" else v for k, v in changed.items() if k not in OURS}
        expected = weights(lambda groups, g=given: OPTIMIZERS[name](groups, **g))
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7)
        alone = option in ("dampening", "decoupled_weight_decay")  # nothing without another one
        assert alone or not torch.allclose(found, usual, rtol=1e-6, atol=0), option


@pytest.mark.parametrize(
    "name",
    [n if n in ("adamw", "sgd") else pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS],
)
def test_a_classifier_learns_with_each_optimizer(name: str, tmp_path: Path) -> None:
    first, _ = fit(tmp_path, f"optim={name}", epochs=1)
    losses = [
        model.metrics("train")["loss"] for model in (first, fit(tmp_path, f"optim={name}")[0])
    ]
    assert losses[1] < losses[0]


def expected_rates(schedule: Any) -> list[float]:
    """Of a schedule of torch's that is stepped after each step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    found, rates = schedule(optimizer), []
    for _ in range(3 * STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        found.step()
    return rates


SCHEDULES: dict[str, Any] = {
    "schedule=cosine schedule.eta_min=0.1": lambda o: CosineAnnealingLR(o, 3 * STEPS, 0.1),
    "schedule=linear_warmup schedule.start_factor=0.1 schedule.total_iters=10": lambda o: LinearLR(
        o, 0.1, total_iters=10
    ),
    "schedule=step schedule.step_size=2 schedule.gamma=0.5": lambda o: StepLR(o, 2 * STEPS, 0.5),
    "schedule=constant": lambda o: StepLR(o, 10**9),
}


@pytest.mark.parametrize("options", SCHEDULES)
def test_the_rate_is_that_of_torchs_schedule(options: str, tmp_path: Path) -> None:
    _, rates = fit(tmp_path, "optim.lr=0.5", *options.split())
    assert rates == expected_rates(SCHEDULES[options])


def test_one_cycle_goes_up_and_down_to_zero(tmp_path: Path) -> None:
    options = ("optim.lr=0.5", "schedule=one_cycle")
    assert fit(tmp_path, *options)[1] == [0.5 * one_cycle(n / 24) for n in range(24)]
    other = ("schedule.pct_start=0.5", "schedule.div_factor=10")
    found = fit(tmp_path, *options, *other)[1]
    assert found == [0.5 * one_cycle(n / 24, 0.5, 10) for n in range(24)] and found[0] == 0.05
    # Ten batches, three steps an epoch.
    rates = fit(tmp_path, *options, "data.batch_size=7", accumulate_grad_batches=4)[1]
    assert rates == [0.5 * one_cycle(n / 9) for n in range(9)]


def test_one_cycle_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    steps = 1001
    torchs = OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=0.3, final_div_factor=1e9)
    for step in range(steps - 1):
        # Its first phase ends a step earlier: a thousandth of the way.
        assert abs(one_cycle(step / (steps - 1)) - float(torchs.get_last_lr()[0])) < 0.004
        optimizer.step()
        torchs.step()
    assert one_cycle(1.0) == pytest.approx(0)


def test_the_rate_falls_on_a_plateau(tmp_path: Path) -> None:
    """A rate of 1e-6 changes no accuracy: only the first epoch has a better one."""
    plateau = ("schedule=reduce_on_plateau", "schedule.patience=0", "schedule.factor=0.5")
    _, rates = fit(tmp_path, "optim=sgd", "optim.lr=1e-6", *plateau)
    assert rates[::STEPS] == [1e-6, 1e-6, 5e-7]
    _, rates = fit(tmp_path, "optim=sgd", "optim.lr=1e-6", *plateau, "schedule.min_lr=8e-7")
    assert rates[-1] == 8e-7
    _, rates = fit(tmp_path, "optim=sgd", "optim.lr=1e-6", *plateau[:1], "schedule.patience=2")
    assert set(rates) == {1e-6}


def test_a_run_records_its_optimizer_and_schedule(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "optim=adamw", "optim.weight_decay=0.1", "schedule=cosine")
    from imdb_lightning.runs.run import Run

    cfg = Run(run).config
    assert (cfg.optim.name, cfg.optim.weight_decay, cfg.schedule.name) == ("adamw", 0.1, "cosine")
    assert math.isfinite(Run(run).metrics["test/loss"])
