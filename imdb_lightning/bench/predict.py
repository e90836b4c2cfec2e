"""Prediction of texts beside the evaluation loop of training, on the same reviews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.datamodule import ReviewDataModule
from ..data.split import reviews_of_split
from ..inference import load
from ..model.classifier import Classifier
from ..runs.run import Run
from .step import quick_trainer
from .timing import interleaved, table


def predict(run: Path, rounds: int) -> dict[str, Any]:
    """Print and return the reviews a second of both on the test split.

    Training's loop has encoded reviews; prediction starts from texts. Raises
    LoadError or DataError.
    """
    model = load(run)
    cfg = Run(run).config
    data = ReviewDataModule(cfg.data, cfg.seed)
    data.setup()
    classifier = Classifier.from_config(cfg.model, cfg.optim)
    classifier.load_state_dict(model.network.state_dict())
    texts, _ = reviews_of_split(model.data, "test")
    trainer = quick_trainer()
    times = interleaved(
        {
            "training's evaluation loop": lambda: trainer.test(
                classifier, datamodule=data, verbose=False
            ),
            "predict, from texts": lambda: model.predict(texts),
        },
        rounds,
        warm_up=1,
    )
    rates = {name: len(texts) / taken.median * 1e3 for name, taken in times.items()}
    rows = [[name, str(taken), f"{rates[name]:,.0f}"] for name, taken in times.items()]
    print(f"\n{len(texts):,} test reviews of {cfg.data.name}, {cfg.model.name}")
    print(table(["", "ms", "reviews/s"], rows))
    return {"reviews_per_second": rates, "ms": {n: t._asdict() for n, t in times.items()}}
