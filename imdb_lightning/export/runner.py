"""An exported model as a function, and the error if there is none."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


Runner = Callable[[Tensor, Tensor], Tensor]  # tokens_BT, lengths_B -> logits (B, 2)


class ExportError(Exception):
    """Why a model cannot be exported, in one line."""
