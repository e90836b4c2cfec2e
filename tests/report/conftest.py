"""Run directories as training writes them, with predictions of a chosen quality."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from omegaconf import DictConfig, OmegaConf

from imdb_lightning.config.overrides import check_command_line


@cache
def configuration(*overrides: str) -> DictConfig:
    line = check_command_line(overrides)
    assert line.errors == []
    (cfg,) = line.jobs
    return cfg


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(
        name: str, *overrides: str, seed: int = 0, skill: float = 1.5, changes: Any = None
    ) -> Path:
        """A finished run in `name` whose logits lie `skill` on the right side on average."""
        path = tmp_path / name
        cfg = configuration(*overrides).copy()
        cfg.seed = seed
        (path / ".hydra").mkdir(parents=True)
        OmegaConf.save(cfg, path / ".hydra" / "config.yaml")
        random = np.random.default_rng([seed, int(1000 * abs(skill))])
        tables, accuracy = [], {}
        for split, count in (("val", 400), ("test", 1_000)):
            label = np.arange(count) % 2
            # What a review is like is the same for all runs, as with real ones.
            hard = np.random.default_rng(count).normal(0, 1, count)
            logit = (2 * label - 1) * (skill + hard + 0.3 * random.normal(0, 1, count))
            accuracy[split] = float(((logit > 0) == label).mean())
            columns = {"split": [split] * count, "index": np.arange(count)}
            tables.append(pyarrow.table({**columns, "label": label, "logit": logit}))
        pyarrow.parquet.write_table(pyarrow.concat_tables(tables), path / "predictions.parquet")
        epochs = [
            {
                "epoch": epoch,
                **{f"train/{kind}": value for kind, value in (("loss", 0.5), ("acc", 0.8))},
                **{"val/loss": 0.6, "val/acc": accuracy["val"], "seconds": 1.0},
            }
            for epoch in (1, 2, 3)
        ]
        metrics = {
            **{"status": "done", "dataset": cfg.data.name, "model": cfg.model.name, "seed": seed},
            **{"parameters": 1_234, "epochs": epochs, "best_epoch": 2, "seconds": 10.0 + seed},
            **{"val/acc": accuracy["val"], "val/loss": 0.6, "val/acc_best": accuracy["val"]},
            **{"test/acc": accuracy["test"], "test/loss": 0.6, "device": "cpu (1 threads)"},
            **{"versions": {"python": "3"}, "git": "abc", "data": {"fingerprint": "f"}},
        }
        metrics |= changes or {}
        (path / "metrics.json").write_text(json.dumps(metrics))
        return path

    return make
