"""What each pass over a split gave, kept until the next one begins."""

from __future__ import annotations

import torch
from torch import Tensor


class Pass:
    """What each review of a pass over a split gave, in columns that are kept from pass to pass.

    A list of a few small tensors a step would lie between the large ones and keep the memory of
    each step from serving the next.
    """

    def __init__(self) -> None:
        self.columns: list[Tensor] = []
        self.count = 0

    def clear(self) -> None:
        self.count = 0

    def add(self, *batch: Tensor) -> None:
        """One row per review: tensors (B,), in the same order each time."""
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

    def go_on(self, rows: list[Tensor]) -> None:
        """After these rows (N,), which an earlier process added."""
        self.columns = [column.clone() for column in rows]
        self.count = len(rows[0])

    def rows(self) -> list[Tensor]:
        """The columns (N,) of this pass."""
        return [column[: self.count].clone().cpu() for column in self.columns]
