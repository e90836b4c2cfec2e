"""Word embedding: nn.Embedding with a faster gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Embedding(nn.Embedding):
    """nn.Embedding without its options; on a CPU the same gradient in a third of the time."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim)

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the table: int64 (...,) to float (..., E)."""
        if self.weight.device.type != "cpu":
            return super().forward(input)
        return EmbeddingFunction.apply(self.weight, input)


class EmbeddingFunction(torch.autograd.Function):
    """Rows of a table, whose gradient is one index_add."""

    @staticmethod
    def forward(ctx: Any, table_VE: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows = len(table_VE)
        return nn.functional.embedding(tokens, table_VE)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (tokens,) = ctx.saved_tensors
        table_VE = grad.new_zeros(ctx.rows, grad.shape[-1])
        return table_VE.index_add_(0, tokens.flatten(), grad.reshape(-1, grad.shape[-1])), None
