"""The sentiment classifier: the network, trained and scored by Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor, nn

from .network import OF_THE_LAYER, Network, layer_maker
from .passes import Pass
from .step_graphs import StepGraphs


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class Scores(NamedTuple):
    """What one pass over a split gave: means over reviews, and one row per review."""

    loss: float  # nats per review
    accuracy: float  # fraction 0..1
    index_N: Tensor  # int64, the review's row in its split
    labels_N: Tensor  # int64, 0 negative, 1 positive
    margins_N: Tensor  # float32, logit of positive minus logit of negative


class Classifier(Network, lightning.LightningModule):
    """The network with its loss, its optimizer, and the scores of each pass over a split."""

    def __init__(
        self,
        make_layer: Callable[[int, int], nn.Module],
        *,
        loss: str,
        lr: float,
        weight_decay: float,
        **network: Any,
    ) -> None:
        super().__init__(make_layer, **network)
        self.loss = loss
        self.lr = lr
        self.weight_decay = weight_decay
        self.pretrained: frozenset[str] = frozenset()  # names of parameters
        self.pretrained_lr = 1.0  # their learning rate, as a part of `lr`
        self.graphs = StepGraphs()
        self._passes = {"train": Pass(), "val": Pass(), "test": Pass()}
        self.told_N: Tensor | None
        self.register_buffer("told_N", None, persistent=False)  # float32, see `targets`

    def __getstate__(self) -> dict[str, Any]:
        """Without graphs, which no file and no other process can hold."""
        return {**super().__getstate__(), "graphs": StepGraphs()}

    @classmethod
    def from_config(  # type: ignore[override]
        cls, model: Mapping[str, Any], optim: Mapping[str, Any]
    ) -> Classifier:
        """The classifier that the groups `model` and `optim` of a configuration describe."""
        options = {k: v for k, v in model.items() if k not in OF_THE_LAYER}
        learning = {name: optim[name] for name in ("lr", "weight_decay")}
        return cls(layer_maker(model), **options, **learning)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        if self.graphs.can(self):
            found = self.graphs(self, batch)
            if found is not None:
                loss, loss_B, margins_B = found
                self._passes["train"].add(loss_B, margins_B, *batch[2:])
                return loss
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, _: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, _: int) -> None:
        self._step(batch, "test")

    def batch_loss(self, batch: Batch) -> Tensor:
        """Mean over the reviews of the batch: (), nats per review."""
        tokens_BT, lengths_B, labels_B, index_B = batch
        targets = self.targets(labels_B, index_B)
        return LOSSES[self.loss](self(tokens_BT, lengths_B), targets).mean()

    def targets(self, labels_B: Tensor, index_B: Tensor) -> Tensor:
        """The labels; with a teacher, the probabilities (B, 2) of both, also of labelled reviews.

        `told_N` has the teacher's of a positive one for review n without label, of index -1 - n.
        """
        if self.told_N is None:
            return labels_B
        told_B = self.told_N[(-1 - index_B).clamp(min=0)]
        positive_B = torch.where(index_B < 0, told_B, labels_B.to(told_B))
        return torch.stack([1 - positive_B, positive_B], dim=1)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of each review (B,): nats, and the logit of positive minus that of negative."""
        tokens_BT, lengths_B, labels_B, index_B = batch
        logits_B2 = self(tokens_BT, lengths_B)
        loss_B = LOSSES[self.loss](logits_B2, self.targets(labels_B, index_B))
        return loss_B, (logits_B2[:, 1] - logits_B2[:, 0]).detach()

    def _step(self, batch: Batch, stage: str) -> Tensor:
        loss_B, margins_B = self.losses(batch)
        self._passes[stage].add(loss_B.detach(), margins_B, *batch[2:])
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

    def measures(self, stage: str) -> dict[str, float]:
        """Of the latest pass over a split: nats per review, and a fraction 0..1."""
        scores = self.scores(stage)
        return {"loss": scores.loss, "acc": scores.accuracy}

    def scores(self, stage: str) -> Scores:
        """Of the latest pass over "train", "val" or "test"."""
        loss_N, margins_N, labels_N, index_N = self.rows(stage)
        correct_N = (margins_N > 0) == (labels_N == 1)
        return Scores(
            loss=loss_N.double().mean().item(),
            accuracy=correct_N.double().mean().item(),
            index_N=index_N,
            labels_N=labels_N,
            margins_N=margins_N.float(),
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": [*self.parameters()]}]
        if self.pretrained_lr != 1:
            named = [*self.named_parameters()]
            groups = [
                {"params": [p for name, p in named if name not in self.pretrained]},
                {
                    "params": [p for name, p in named if name in self.pretrained],
                    "lr": self.lr * self.pretrained_lr,
                },
            ]
        # Fused is several times as fast, but Lightning cannot clip gradients for it under mixed
        # precision.
        fused = True
        if self._trainer is not None and "mixed" in str(self.trainer.precision):
            on_gpu = self.device.type == "cuda" and self.trainer.precision == "bf16-mixed"
            fused = on_gpu and not self.trainer.gradient_clip_val
        return torch.optim.Adam(groups, self.lr, weight_decay=self.weight_decay, fused=fused)


def cross_entropy(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """-log softmax(logits)[label]: (B,) nats. In the place of labels, probabilities (B, 2)."""
    return nn.functional.cross_entropy(logits_B2, labels_B, reduction="none")


def nll(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """log_softmax, then negative log-likelihood, which is cross entropy: (B,) nats."""
    return nn.functional.nll_loss(logits_B2.log_softmax(1), labels_B, reduction="none")


def nll_on_raw_logits(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """-logits[label]: (B,), without a lower bound. The report's section 4.2: it does not train."""
    return nn.functional.nll_loss(logits_B2, labels_B, reduction="none")


LOSSES = {"cross_entropy": cross_entropy, "nll": nll, "nll_on_raw_logits": nll_on_raw_logits}
