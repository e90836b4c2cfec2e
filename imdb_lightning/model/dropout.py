"""Dropout of embedded reviews, while training: of features, and of words.

Dimensions: T tokens, B reviews, E embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VariationalDropout(nn.Module):
    """Zeroes features of a review, one mask for all its tokens (Gal and Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x_TBE: Tensor) -> Tensor:
        """x_TBE, with the other features scaled by 1 / (1 - p)."""
        if not self.training or self.p == 0:
            return x_TBE
        return x_TBE * dropout_mask(x_TBE, self.p, *x_TBE.shape[1:])


class EmbeddingDropout(nn.Module):
    """Zeroes words, at each of their occurrences in the batch (Merity et al. 2018)."""

    def __init__(self, p: float, rows: int) -> None:
        """`rows`: of the embedding, one for each word."""
        super().__init__()
        self.p = p
        self.rows = rows

    def forward(self, x_TBE: Tensor, tokens_TB: Tensor) -> Tensor:
        """x_TBE, with the other words scaled by 1 / (1 - p)."""
        if not self.training or self.p == 0:
            return x_TBE
        return x_TBE * dropout_mask(x_TBE, self.p, self.rows, 1)[tokens_TB]


def dropout_mask(like: Tensor, p: float, *shape: int) -> Tensor:
    """0 with probability p, else 1 / (1 - p)."""
    return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1 - p).div_(1 - p)
