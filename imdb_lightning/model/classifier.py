"""The sentiment classifier: embedding, backbone, pooling over time, and a head of two layers.

Dimensions: T tokens, B reviews in the batch, E embedding size, H hidden size, F pooled features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from pkgutil import resolve_name
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor, nn

from . import pooling
from .backbones import Backbone, Unrolled
from .cells import Cell
from .compiled import Compiled
from .embedding import Embedding
from .fused import PORTABLE, Fused


Batch = tuple[Tensor, Tensor, Tensor, Tensor]

POOLINGS: dict[str, Callable[..., Tensor]] = {
    "mean": pooling.mean,
    "max": pooling.max,
    "last": pooling.last,
    "mean_max": pooling.mean_max,
    "mean_padded": pooling.mean_padded,  # the classifier first makes padding a part of the review
}


log = logging.getLogger(__name__)
warn_once = cache(log.warning)


class Scores(NamedTuple):
    """What one pass over a split gave: means over reviews, and one row per review."""

    loss: float  # nats per review
    accuracy: float  # fraction 0..1
    index_N: Tensor  # int64, the review's row in its split
    labels_N: Tensor  # int64, 0 negative, 1 positive
    margins_N: Tensor  # float32, logit of positive minus logit of negative


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

    def rows(self) -> list[Tensor]:
        """The columns (N,) of this pass."""
        return [column[: self.count].clone().cpu() for column in self.columns]


class Classifier(lightning.LightningModule):
    """Embedding -> backbone -> pooling -> Linear, ReLU, dropout -> Linear to 2 logits.

    The logits of a review depend on its own tokens alone: not on its padding, not on the reviews
    beside it. Under pooling="mean_padded", the report's way, every review is first padded to
    `max_length` tokens, and the padding is read, embedded and averaged like words.
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
        loss: str,
        lr: float,
        weight_decay: float,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.pooling = pooling
        self.loss = loss
        self.lr = lr
        self.weight_decay = weight_decay
        self.embedding = Embedding(vocab_size + 1, embedding_size)  # row 0 is padding
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
        self._passes = {"train": Pass(), "val": Pass(), "test": Pass()}

    @classmethod
    def from_config(cls, model: Mapping[str, Any], optim: Mapping[str, Any]) -> Classifier:
        """The classifier that the groups `model` and `optim` of a configuration describe."""
        options = {k: v for k, v in model.items() if k not in OF_THE_LAYER}
        return cls(layer_maker(model), **options, **optim)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, 2) of negative and positive. tokens_BT: int64; lengths_B: int64 tokens."""
        if self.pooling == "mean_padded":
            missing = self.max_length - tokens_BT.shape[1]
            tokens_BT = nn.functional.pad(tokens_BT, (0, missing))
            lengths_B = torch.full_like(lengths_B, self.max_length)
        x_TBE = self.embedding(tokens_BT.T)
        h_TBH = self.backbone(x_TBE, lengths_B)
        return self.head(self.pool(h_TBH, lengths_B))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, _: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, _: int) -> None:
        self._step(batch, "test")

    def _step(self, batch: Batch, stage: str) -> Tensor:
        tokens_BT, lengths_B, labels_B, index_B = batch
        logits_B2 = self(tokens_BT, lengths_B)
        loss_B = LOSSES[self.loss](logits_B2, labels_B)
        margins_B = (logits_B2[:, 1] - logits_B2[:, 0]).detach()
        self._passes[stage].add(loss_B.detach(), margins_B, labels_B, index_B)
        return loss_B.mean()

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
        scores = self.scores(stage)
        means = {f"{stage}/loss": scores.loss, f"{stage}/acc": scores.accuracy}
        self.log_dict(means, logger=False, batch_size=len(scores.labels_N))

    def scores(self, stage: str) -> Scores:
        """Of the latest pass over "train", "val" or "test"."""
        loss_N, margins_N, labels_N, index_N = self._passes[stage].rows()
        correct_N = (margins_N > 0) == (labels_N == 1)
        return Scores(
            loss=loss_N.double().mean().item(),
            accuracy=correct_N.double().mean().item(),
            index_N=index_N,
            labels_N=labels_N,
            margins_N=margins_N.float(),
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Fused is several times as fast on a CPU, but cannot clip gradients under mixed precision.
        mixed = self._trainer is not None and "mixed" in str(self.trainer.precision)
        return torch.optim.Adam(
            self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=not mixed
        )


def cross_entropy(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """-log softmax(logits)[label]: (B,) nats."""
    return nn.functional.cross_entropy(logits_B2, labels_B, reduction="none")


def nll(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """log_softmax, then negative log-likelihood, which is cross entropy: (B,) nats."""
    return nn.functional.nll_loss(logits_B2.log_softmax(1), labels_B, reduction="none")


def nll_on_raw_logits(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """-logits[label]: (B,), without a lower bound. The report's section 4.2: it does not train."""
    return nn.functional.nll_loss(logits_B2, labels_B, reduction="none")


LOSSES = {"cross_entropy": cross_entropy, "nll": nll, "nll_on_raw_logits": nll_on_raw_logits}


OF_THE_LAYER = ("name", "layer", "cell", "implementation")


def layer_maker(model: Mapping[str, Any]) -> Callable[[int, int], nn.Module]:
    """Function (input_size, hidden_size) -> one recurrent layer, `model.layer` or `model.cell`.

    Raises ImportError, AttributeError or ValueError where `_target_` names no such class.
    """
    if "cell" in model:
        make_cell = cell_maker(model["cell"])
        over_time = IMPLEMENTATIONS[model["implementation"]]
        return lambda input_size, hidden_size: over_time(make_cell(input_size, hidden_size))
    target = model["layer"]["_target_"]
    kind = resolve_name(target)
    if kind not in (nn.RNN, nn.LSTM, nn.GRU):
        raise ValueError(f"model.layer: {target} is not torch.nn.RNN, LSTM or GRU")
    return lambda input_size, hidden_size: kind(input_size, hidden_size)


def cell_maker(cell: Mapping[str, Any]) -> Callable[[int, int], Cell]:
    """Function (input_size, hidden_size) -> the cell that `model.cell` names, ours or a user's.

    Raises ImportError, AttributeError or ValueError where `_target_` names no such class.
    """
    options = dict(cell)
    target = options.pop("_target_")
    kind = resolve_name(target)
    if not (isinstance(kind, type) and issubclass(kind, Cell)):
        raise ValueError(f"model.cell: {target} is not an imdb_lightning.Cell")
    return lambda input_size, hidden_size: kind(input_size, hidden_size, **options)


def fused_or_unrolled(cell: Cell) -> nn.Module:
    """`Fused` where the cell is one of ours, else `Unrolled`, after one line that says so."""
    if type(cell) in PORTABLE:
        return Fused(cell)
    warn_once(
        f"{type(cell).__name__} has no fused form and is unrolled step by step; "
        "model.implementation=compile is faster"
    )
    return Unrolled(cell)


IMPLEMENTATIONS: dict[str, Callable[[Cell], nn.Module]] = {
    "fused": fused_or_unrolled,
    "compile": Compiled,
    "loop": Unrolled,
}
