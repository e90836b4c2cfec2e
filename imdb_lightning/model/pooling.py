"""Pooling over time: from the hidden states of a review to one vector.

Each takes h_TBH and lengths_B (int64 tokens, 1 to T) and ignores the steps after a review's end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .padding import padding_mask


def mean(h_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean over the tokens of each review: (B, H)."""
    padding_TB1 = padding_mask(lengths_B, h_TBH.shape[0]).unsqueeze(2)
    return h_TBH.masked_fill(padding_TB1, 0).sum(0) / lengths_B.unsqueeze(1)


def mean_padded(h_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean over every step, padding included: (B, H)."""
    return h_TBH.sum(0) / lengths_B.unsqueeze(1)


def max(h_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    """Largest value of each unit over the tokens of each review: (B, H)."""
    padding_TB1 = padding_mask(lengths_B, h_TBH.shape[0]).unsqueeze(2)
    return h_TBH.masked_fill(padding_TB1, -torch.inf).amax(0)


def last(h_TBH: Tensor, lengths_B: Tensor, directions: int = 1) -> Tensor:
    """Final hidden state of each direction: at the last token forwards, at the first backwards."""
    reviews_B = torch.arange(lengths_B.shape[0], device=lengths_B.device)
    forwards_BH = h_TBH[lengths_B - 1, reviews_B]
    if directions == 1:
        return forwards_BH
    half = h_TBH.shape[2] // 2
    return torch.cat([forwards_BH[:, :half], h_TBH[0, :, half:]], dim=1)


def mean_max(h_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean and maximum side by side: (B, 2H)."""
    return torch.cat([mean(h_TBH, lengths_B), max(h_TBH, lengths_B)], dim=1)
