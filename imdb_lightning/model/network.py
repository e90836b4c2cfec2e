"""The network: embedding, backbone, pooling over time, and a head of two layers.

Dimensions: T tokens, B reviews in the batch, E embedding size, H hidden size, F pooled features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from . import pooling
from .backbones import Backbone, Unrolled
from .cells import Cell, ForeignCell
from .dropout import EmbeddingDropout, VariationalDropout
from .embedding import Embedding
from .fused import Fused


POOLINGS: dict[str, Callable[..., Tensor]] = {
    "mean": pooling.mean,
    "max": pooling.max,
    "last": pooling.last,
    "mean_max": pooling.mean_max,
    "mean_padded": pooling.mean_padded,  # after `forward` has padded each review to max_length
}


class Network(nn.Module):
    """Embedding -> backbone -> pooling -> Linear, ReLU, dropout -> Linear to 2 logits.

    While training, dropout of words and features acts on the embedded review.

    The logits of a review depend only on its own tokens: not on its padding, not on the other
    reviews of the batch. With pooling="mean_padded", the report's way, every review is first padded
    to `max_length` tokens, and the padding is read, embedded and averaged like words.
    """

    def __init__(
        self,
        make_layer: Callable[[int, int], nn.Module],
        *,
        vocab_size: int,
        max_length: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        pooling: str,
        word_dropout: float,
        embedding_dropout: float,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.pooling = pooling
        self.embedding = Embedding(vocab_size + 1, embedding_size)  # row 0 is padding
        self.word_dropout = EmbeddingDropout(word_dropout, vocab_size + 1)
        self.feature_dropout = VariationalDropout(embedding_dropout)
        self.backbone = Backbone(
            make_layer, embedding_size, hidden_size, num_layers, bidirectional, dropout
        )
        self.pool = POOLINGS[pooling]
        if pooling == "last":
            self.pool = partial(self.pool, directions=self.backbone.directions)
        features = self.backbone.output_size * (2 if pooling == "mean_max" else 1)
        self.head = nn.Sequential(
            nn.Linear(features, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, 2),
        )

    @classmethod
    def from_config(cls, model: Mapping[str, Any]) -> Network:
        """The network that the group `model` of a configuration describes."""
        options = {k: v for k, v in model.items() if k not in (*LAYER_KEYS, "loss")}
        return Network(layer_factory(model), **options)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, 2) of negative and positive. tokens_BT: int64; lengths_B: int64 tokens."""
        if self.pooling == "mean_padded":
            tokens_BT = nn.functional.pad(tokens_BT, (0, self.max_length - tokens_BT.shape[1]))
        x_TBE = self.word_dropout(self.embedding(tokens_BT.T), tokens_BT.T)
        return self.from_embeddings(self.feature_dropout(x_TBE), lengths_B)

    def from_embeddings(self, x_TBE: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, 2) of reviews that are already embedded."""
        if self.pooling == "mean_padded":
            missing = self.max_length - x_TBE.shape[0]
            if missing:
                padding_E = self.embedding.weight[0]
                x_TBE = torch.cat([x_TBE, padding_E.expand(missing, x_TBE.shape[1], -1)])
            lengths_B = torch.full_like(lengths_B, self.max_length)
        h_TBH = self.backbone(x_TBE, lengths_B)
        return self.head(self.pool(h_TBH, lengths_B))


def logit_difference(logits_B2: Tensor) -> Tensor:
    """The logit of a review (B,): positive minus negative, whose sigmoid is P(positive)."""
    return logits_B2[:, 1] - logits_B2[:, 0]


LAYER_KEYS = ("name", "layer", "cell", "implementation")  # not arguments of Network


def layer_factory(model: Mapping[str, Any]) -> Callable[[int, int], nn.Module]:
    """Function (input_size, hidden_size) -> one recurrent layer, `model.layer` or `model.cell`.

    Raises ImportError, AttributeError or ValueError if `_target_` names no such class.
    """
    if "cell" in model:
        make_cell = cell_factory(model["cell"])
        over_time = IMPLEMENTATIONS[model["implementation"]]
        return lambda input_size, hidden_size: over_time(make_cell(input_size, hidden_size))
    target = model["layer"]["_target_"]
    kind = resolve_name(target)
    if kind not in (nn.RNN, nn.LSTM, nn.GRU):
        raise ValueError(f"model.layer: {target} is not torch.nn.RNN, LSTM or GRU")
    return lambda input_size, hidden_size: kind(input_size, hidden_size)


def cell_factory(cell: Mapping[str, Any]) -> Callable[[int, int], Cell]:
    """Function (input_size, hidden_size) -> the cell that `model.cell` names, ours or a user's.

    A module that is no Cell has the calling convention of torch.nn's cells. Raises ImportError,
    AttributeError or ValueError if `_target_` names no such class.
    """
    options = dict(cell)
    target = options.pop("_target_")
    kind = resolve_name(target)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"model.cell: {target} is not a cell: it is no class of torch.nn.Module")

    def make(input_size: int, hidden_size: int) -> Cell:
        cell = kind(input_size, hidden_size, **options)
        return cell if isinstance(cell, Cell) else ForeignCell(cell, input_size, hidden_size)

    return make


IMPLEMENTATIONS: dict[str, Callable[[Cell], nn.Module]] = {
    "fused": Fused,
    "loop": Unrolled,
}
