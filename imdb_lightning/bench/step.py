"""The time of a training step, by parts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import lightning
import torch
from omegaconf import DictConfig

from ..data.datamodule import ReviewDataModule
from ..model.classifier import Classifier
from .timing import StepTimer, interleaved, product_of_matrices, table


WARM_UP, STEPS = 20, 60  # steps before, and in each of, the two measurements

PARTS = {  # parts of the profiler's names
    "recurrent layer": ("NativeFunction", "SequenceFunction", "lstm", "mkldnn_rnn", "MkldnnRnn"),
    "embedding": ("embedding", "EmbeddingFunction", "index_add", "scatter_add", "index_select"),
    "optimizer": ("_fused_adam_", "Optimizer.zero_grad"),
    "batches": ("enumerate(DataLoader)",),
}


class ProfiledSteps(StepTimer):
    """Milliseconds a step without the profiler, then the profiler over as many steps."""

    def __init__(self) -> None:
        super().__init__(WARM_UP, STEPS)
        self.profiler = torch.profiler.profile()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        super().on_train_batch_end(trainer)
        if trainer.global_step == self.last:
            self.profiler.start()
        elif trainer.global_step == self.last + STEPS:
            self.profiler.stop()


def step(cfg: DictConfig) -> dict[str, Any]:
    """Print and return the milliseconds of each part of a training step of this configuration.

    The layer's own operations are one entry of the profiler if it is fused or nn.LSTM. Raises
    ValueError for others, and for several layers or directions.
    """
    flops_of_layer = cell_flops(cfg)
    data = ReviewDataModule(cfg.data, cfg.seed)
    data.setup()
    lightning.seed_everything(cfg.seed, verbose=False)
    model = Classifier.from_config(cfg.model, cfg.optim)
    watch = ProfiledSteps()
    trainer = quick_trainer(watch, max_epochs=-1, max_steps=WARM_UP + 2 * STEPS)
    trainer.fit(model, datamodule=data)

    parts: dict[str, float] = defaultdict(float)
    for event in watch.profiler.key_averages():
        if event.key == "Optimizer.step#Adam.step":
            continue  # Lightning runs the complete step inside it: the rest is Python
        names = (part for part, keys in PARTS.items() if any(k in event.key for k in keys))
        parts[next(names, "head, pooling, loss, packing")] += (
            event.self_cpu_time_total / STEPS / 1e3
        )
    parts["Python and Lightning"] = watch.step_ms - sum(parts.values())
    product, flops = product_of_matrices()
    peak = flops / interleaved({"product": product}, rounds=10)["product"].median * 1e-6
    products = flops_of_layer / peak * 1e-6

    rows = [[n, f"{ms:.2f}", f"{ms / watch.step_ms:.0%}"] for n, ms in sorted_by_time(parts)]
    rows.append(["a step", f"{watch.step_ms:.2f}", "100%"])
    print(f"\na training step of {cfg.model.name}, {cfg.data.batch_size} reviews, {cfg.data.name}")
    print(table(["part", "ms", "share"], rows))
    print(f"the recurrent layer's matrix products alone, at {peak:.0f} GFLOP/s: {products:.2f} ms")
    return {
        "step_ms": watch.step_ms,
        "parts_ms": dict(parts),
        "products_ms": products,
        "peak_gflops": peak,
    }


def sorted_by_time(parts: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(parts.items(), key=lambda item: -item[1])


def cell_flops(cfg: DictConfig) -> float:
    """Floating-point operations of the layer's products in one step, forward and backward.

    Over max_length steps, as the report's runs are.
    """
    fused = cfg.model.get("implementation") == "fused"
    gates = {"lstm": 4, "custom_lstm": 4, "custom_gru": 3, "custom_rnn": 1}.get(cfg.model.name)
    if (
        gates is None
        or cfg.model.num_layers > 1
        or cfg.model.bidirectional
        or not (fused or cfg.model.name == "lstm")
    ):
        raise ValueError("the step bench needs one layer, model=lstm or custom_*, fused")
    H, I = cfg.model.hidden_size, cfg.model.embedding_size
    return 6.0 * cfg.data.max_length * cfg.data.batch_size * gates * H * (I + H)


def quick_trainer(*callbacks: lightning.Callback, **options: Any) -> lightning.Trainer:
    """One epoch of training on the CPU, without validation, logs or checkpoints."""
    return lightning.Trainer(
        **{"max_epochs": 1, **options},
        accelerator="cpu",
        deterministic=True,
        callbacks=list(callbacks),
        logger=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
