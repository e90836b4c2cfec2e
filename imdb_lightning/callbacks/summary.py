"""The summary of a model: its modules and their parameters."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch.callbacks import ModelSummary


log = logging.getLogger(__name__)
SHOWN = ("Name", "Type", "Params")


class Summary(ModelSummary):
    """Lightning's, as three columns in this project's log, the modules without parameters omitted.

    Lightning logs its own on a level that is not shown here.
    """

    @staticmethod
    def summarize(summary_data: list[tuple[str, list[str]]], *args: Any, **kwargs: Any) -> None:
        columns = [values for name, values in summary_data if name in SHOWN]
        rows = [row for row in zip(*columns, strict=True) if row[-1].strip() not in ("0", "--")]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, kind, count in rows:
            log.info("  %s  %s  %s", name.ljust(widths[0]), kind.ljust(widths[1]), count)
