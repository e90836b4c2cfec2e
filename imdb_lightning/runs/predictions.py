"""predictions.parquet: a row for each review, with split, index in it, label and logit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute
import pyarrow.parquet

from ..config.text import one_line
from . import reader, storage


if TYPE_CHECKING:
    from ..model.classifier import EvalOutput


COLUMNS = {
    "index": pyarrow.types.is_integer,
    "label": pyarrow.types.is_integer,
    "logit": pyarrow.types.is_floating,
}
MAX_ROWS = 2_000_000  # the splits of IMDB have 100,000
MAX_ROW_BYTES = 100


@dataclass(frozen=True)
class Predictions:
    """The predictions for one split, in the order of `index`."""

    index: np.ndarray
    label: np.ndarray  # bool; False for unlabelled reviews
    logit: np.ndarray  # positive - negative

    @property
    def correct(self) -> np.ndarray:
        return (self.logit > 0) == self.label


def write(file: Path, splits: Mapping[str, EvalOutput]) -> None:
    """Raises OSError."""
    tables = [
        pyarrow.table(
            {
                "split": [name] * len(output.index_N),
                "index": output.index_N.numpy(),
                "label": output.labels_N.numpy(),
                "logit": output.logit_N.numpy(),
            }
        ).sort_by("index")
        for name, output in splits.items()
    ]
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.concat_tables(tables), buffer)
    storage.atomic_write(file, buffer.getvalue().to_pybytes())


def read(file: Path, *names: str) -> dict[str, Predictions]:
    """The splits of these names. Raises OSError, or ValueError if the file is corrupt."""
    try:
        table = read_table(file)
        splits = {name: _split(table, name) for name in names}
    except (pyarrow.ArrowException, KeyError, TypeError) as error:
        raise ValueError(one_line(error)) from None
    return splits


def read_table(file: Path) -> pyarrow.Table:
    """The checked table. Raises OSError, ValueError or ArrowException."""
    reader.check_regular(file)
    with pyarrow.parquet.ParquetFile(file, read_dictionary=["split"]) as content:
        metadata = content.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        if max(metadata.num_rows, size // MAX_ROW_BYTES) > MAX_ROWS:
            raise ValueError("more rows than any run writes")
        table = content.read(columns=["split", *COLUMNS])
    for chunk in table["split"].chunks:
        if any(len(str(name)) > MAX_ROW_BYTES for name in chunk.dictionary):
            raise ValueError("a split with a name that no run writes")
    for name, is_kind in COLUMNS.items():
        if not is_kind(table[name].type) or table[name].null_count:
            raise ValueError(f"column {name} does not contain numbers alone")
    return table.set_column(0, "split", table["split"].cast(pyarrow.string()))


def _split(table: pyarrow.Table, name: str) -> Predictions:
    rows = table.filter(pyarrow.compute.equal(table["split"], name)).sort_by("index")
    index, label, logit = (rows[column].to_numpy() for column in COLUMNS)
    if not len(index):
        raise ValueError(f"no rows of split {name}")
    if not (np.isfinite(logit).all() and np.isin(label, (-1, 0, 1)).all()):
        raise ValueError("labels or logits that no run writes")
    return Predictions(index, label == 1, logit)
