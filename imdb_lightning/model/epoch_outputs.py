"""Per-review outputs of the latest epoch over a split."""

from __future__ import annotations

import torch
from torch import Tensor


class EpochOutputs:
    """Columns with one row for each review of an epoch; the memory is reused by the next epoch.

    Preallocated, not a list of small tensors: those would fragment the heap and keep the memory of
    a step's activations from being reused.
    """

    def __init__(self) -> None:
        self.columns: list[Tensor] = []
        self.count = 0

    def clear(self) -> None:
        self.count = 0

    def add(self, *batch: Tensor) -> None:
        """One row for each review of a batch: tensors (B,), in the same order every time."""
        end = self.count + len(batch[0])
        kept = [(column.dtype, column.device) for column in self.columns]
        if self.count == 0 and kept != [(column.dtype, column.device) for column in batch]:
            self.columns = [column.new_empty(2**15) for column in batch]
        while end > len(self.columns[0]):
            self.columns = [
                torch.cat([column, torch.empty_like(column)]) for column in self.columns
            ]
        for column, part in zip(self.columns, batch, strict=True):
            column[self.count : end] = part
        self.count = end

    def state(self) -> list[Tensor]:
        """The columns (N,) so far, on the CPU; no column before the first batch."""
        return [column[: self.count].clone().cpu() for column in self.columns]

    def load_state(self, columns: list[Tensor]) -> None:
        """Continue after the rows (N,) that an earlier process has added."""
        self.columns = [column.clone() for column in columns]
        self.count = len(columns[0])
