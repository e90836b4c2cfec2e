"""The padding mask."""

from __future__ import annotations

import torch
from torch import Tensor


def padding_mask(lengths_B: Tensor, steps: int) -> Tensor:
    """True at the steps (T, B) after a review's end. lengths_B: int64 tokens, 1 to T."""
    t_T1 = torch.arange(steps, device=lengths_B.device).unsqueeze(1)
    return t_T1 >= lengths_B


def padding_mask_like(x_TBI: Tensor, lengths_B: Tensor | None) -> Tensor | None:
    """The mask (T, B, 1) of padded sequences; None if no lengths are given."""
    if lengths_B is None:
        return None
    # `shape`, as in pooling.py: torch.export takes `len` for a constant.
    return padding_mask(lengths_B, x_TBI.shape[0]).unsqueeze(2)
