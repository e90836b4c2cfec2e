"""Pooling over time: from the hidden states of a review to one vector.

Each takes h_TBH and lengths_B (int64 tokens, 1 to T) and leaves out the steps after a review's end.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean(h_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean over the tokens of each review: (B, H)."""
    inside_TB1 = _inside(h_TBH, lengths_B)
    return h_TBH.masked_fill(~inside_TB1, 0).sum(0) / lengths_B.unsqueeze(1)


def mean_padded(h_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    """The same where every step counts, padding too: (B, H)."""
    return h_TBH.sum(0) / lengths_B.unsqueeze(1)


def max(h_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    """Largest value of each unit over the tokens of each review: (B, H)."""
    return h_TBH.masked_fill(~_inside(h_TBH, lengths_B), -torch.inf).amax(0)


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


def _inside(h_TBH: Tensor, lengths_B: Tensor) -> Tensor:
    t_T1 = torch.arange(h_TBH.shape[0], device=h_TBH.device).unsqueeze(1)
    return (t_T1 < lengths_B).unsqueeze(2)
