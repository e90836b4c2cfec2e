"""Losses: from the two logits and the label of each review to nats."""

from __future__ import annotations

from torch import Tensor, nn


def cross_entropy(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """-log softmax(logits)[label]: (B,) nats. Instead of labels, probabilities (B, 2)."""
    return nn.functional.cross_entropy(logits_B2, labels_B, reduction="none")


def nll(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """log_softmax, then negative log-likelihood, which is cross entropy: (B,) nats."""
    return nn.functional.nll_loss(logits_B2.log_softmax(1), labels_B, reduction="none")


def nll_on_raw_logits(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """-logits[label]: (B,), without a lower bound. The report's section 4.2: it does not train."""
    return nn.functional.nll_loss(logits_B2, labels_B, reduction="none")


LOSSES = {"cross_entropy": cross_entropy, "nll": nll, "nll_on_raw_logits": nll_on_raw_logits}
