"""What each pass over a split gave, kept until the next one begins."""

from __future__ import annotations

import lightning
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


class Passes(lightning.LightningModule):
    """A model that adds what each batch gave to `self._passes`, and knows the means of a pass."""

    def __init__(self) -> None:
        super().__init__()
        self._passes = {"train": Pass(), "val": Pass(), "test": Pass()}

    def measures(self, stage: str) -> dict[str, float]:
        """Means of the latest pass over "train", "val" or "test", by name."""
        raise NotImplementedError

    def on_train_epoch_start(self) -> None:
        self._passes["train"].clear()

    def on_validation_epoch_start(self) -> None:
        self._passes["val"].clear()

    def on_test_epoch_start(self) -> None:
        self._passes["test"].clear()

    def on_train_epoch_end(self) -> None:
        self._log_means("train")

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    def _log_means(self, stage: str) -> None:
        means = {f"{stage}/{name}": value for name, value in self.measures(stage).items()}
        self.log_dict(means, logger=False, batch_size=1)

    def rows(self, stage: str) -> list[Tensor]:
        """What the latest pass, which may not have ended, has gathered: plain tensors (N,)."""
        return self._passes[stage].rows()

    def go_on(self, stage: str, rows: list[Tensor]) -> None:
        """Go on with a pass that an earlier process began."""
        self._passes[stage].go_on([column.to(self.device) for column in rows])

    def has(self, stage: str) -> bool:
        """Whether there was a pass over this split."""
        return self._passes[stage].count > 0
