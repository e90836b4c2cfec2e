"""What the page is made of, small enough for a repository: no weights, logits of half precision."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from .. import durable, teacher
from ..run import Run
from .rows import Found


def keep(found: Found, folder: Path) -> list[Path]:
    """A directory in `folder` for each run that is not there yet; those that are new.

    What is there stays, whatever it is, with a line where it is not the same run.
    """
    new = []
    for row in [*found.baselines.values(), *found.rungs.values()]:
        for path, seed in zip(row.paths, row.seeds, strict=True):
            kept = folder / f"{row.name},seed={seed}"
            if not (kept / "metrics.json").exists():
                copy(Run(path), Run(kept))
                new.append(kept)
            elif not same(Run(path).metrics, Run(kept).metrics):
                print(f"{kept} is of another run than {path} and stays", file=sys.stderr)
    return new


def same(metrics: dict[str, Any], kept: dict[str, Any]) -> bool:
    return all(metrics.get(name) == kept.get(name) for name in ("git", "seconds", "test/loss"))


def copy(run: Run, kept: Run) -> None:
    """Without the paths of the machine that it ran on."""
    metrics = run.metrics
    metrics["data"].pop("source", None)
    seen = [("split", "in", ("val", "test"))]  # not what a baseline tells of unlabelled reviews
    table = pyarrow.parquet.read_table(run.predictions, filters=seen)
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
    durable.write(kept.predictions, buffer.getvalue().to_pybytes())
    if not metrics.get("baseline"):
        cfg = run.config
        cfg.data.path = cfg.data.cache_dir = None
        if cfg.pretrained is not None:
            cfg.pretrained = Path(cfg.pretrained).name
        if cfg.get("teacher") is not None:
            cfg.teacher = [path.name for path in teacher.paths(cfg.teacher)]
        kept.write_config(cfg)
    kept.write_metrics(metrics)  # last: it makes the directory a run's
