"""An archive of the page's runs, small enough for a repository: no weights, half precision."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
import pyarrow.parquet

from ..runs import predictions, storage
from ..runs.run import Run
from ..transfer.teacher import Teachers
from .rows import RecipeRuns


def archive(found: RecipeRuns, folder: Path) -> list[Path]:
    """Copy each run that `folder` does not have yet; returns the new directories.

    An existing directory is kept, with a warning if it contains another run.
    """
    new = []
    for row in [*found.baselines.values(), *found.steps.values()]:
        for path, seed in zip(row.paths, row.seeds, strict=True):
            kept = folder / f"{row.name},seed={seed}"
            if not (kept / "metrics.json").exists():
                archive_run(Run(path), Run(kept))
                new.append(kept)
            elif not is_same_run(Run(path).metrics, Run(kept).metrics):
                print(f"{kept} contains another run than {path} and is kept", file=sys.stderr)
    return new


def is_same_run(metrics: dict[str, Any], kept: dict[str, Any]) -> bool:
    return all(metrics.get(name) == kept.get(name) for name in ("git", "seconds", "test/loss"))


def archive_run(run: Run, kept: Run) -> None:
    """Copy a run without its weights and the paths of its machine."""
    metrics = run.metrics
    metrics["data"].pop("source", None)
    table = predictions.read_table(run.predictions)
    # Not a baseline's predictions of unlabelled reviews.
    table = table.filter(pyarrow.compute.is_in(table["split"], pyarrow.array(["val", "test"])))
    logits = table["logit"].to_numpy().astype(np.float16).astype(np.float32)
    place = table.schema.get_field_index("logit")
    table = table.set_column(place, "logit", pyarrow.array(logits))
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=["split"],
        column_encoding={"index": "DELTA_BINARY_PACKED", "logit": "BYTE_STREAM_SPLIT"},
    )
    kept.path.mkdir(parents=True, exist_ok=True)
    storage.atomic_write(kept.predictions, buffer.getvalue().to_pybytes())
    if not metrics.get("baseline"):
        cfg = run.config
        cfg.data.path = cfg.data.cache_dir = None
        if cfg.pretrained is not None:
            cfg.pretrained = Path(cfg.pretrained).name
        if cfg.get("teacher") is not None:
            cfg.teacher = [path.name for path in Teachers(cfg.teacher).paths]
        kept.write_config(cfg)
    kept.write_metrics(metrics)  # last: it makes the directory a run
