"""Poolings, losses and the classifier as a whole.

pytest tests/model/test_classifier.py
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from imdb_lightning.config.schema import KEYS
from imdb_lightning.model import classifier as classifiers
from imdb_lightning.model.classifier import Classifier
from imdb_lightning.model.embedding import Embedding
from imdb_lightning.model.epoch_outputs import EpochOutputs
from imdb_lightning.model.losses import LOSSES
from imdb_lightning.model.network import POOLINGS
from tests.conftest import composed


MODELS = ["rnn", "lstm", "gru", "custom_rnn", "custom_lstm", "custom_gru"]
TOKENS = torch.tensor([[1, 5, 2, 9, 3, 8], [1, 4, 0, 0, 0, 0], [1, 7, 7, 6, 0, 0]])
LENGTHS = torch.tensor([6, 2, 4])
LABELS = torch.tensor([0, 1, 1])


@cache
def default(model: str) -> DictConfig:
    return composed(f"model={model}")


def classifier(model: str = "lstm", *overrides: str, double: bool = True) -> Classifier:
    torch.manual_seed(0)
    small = ["data.vocab_size=9", "data.max_length=8", "model.embedding_size=5"]
    changes = OmegaConf.from_dotlist([*small, "model.hidden_size=4", *overrides])
    cfg = OmegaConf.merge(default(model), changes)
    classifier = Classifier.from_config(cfg.model, cfg.optim).eval()
    return classifier.double() if double else classifier


@pytest.mark.parametrize(
    ("model", "pooling", "bidirectional"),
    list(product(MODELS, [n for n in POOLINGS if n != "mean_padded"], ("false", "true"))),
)
def test_padding_and_batch_mates_never_change_logits(
    model: str, pooling: str, bidirectional: str
) -> None:
    net = classifier(model, f"model.pooling={pooling}", f"model.bidirectional={bidirectional}")
    logits = net(TOKENS, LENGTHS)
    garbage = torch.where(torch.arange(6) < LENGTHS[:, None], TOKENS, 7)
    assert torch.equal(net(garbage, LENGTHS), logits)
    for review, length in enumerate(LENGTHS.tolist()):
        alone = net(TOKENS[review : review + 1, :length], LENGTHS[review : review + 1])
        torch.testing.assert_close(alone[0], logits[review], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_mean_padded_reads_padding_up_to_max_length(model: str) -> None:
    net = classifier(model, "model.pooling=mean_padded")
    padded = torch.nn.functional.pad(TOKENS, (0, 2))
    h_TBH = net.backbone(net.embedding(padded.T), torch.full((3,), 8))
    torch.testing.assert_close(net(TOKENS, LENGTHS), net.head(h_TBH.mean(0)))
    alone = net(TOKENS[1:2, :2], LENGTHS[1:2])  # batch mates change nothing here either
    torch.testing.assert_close(alone[0], net(TOKENS, LENGTHS)[1], rtol=1e-12, atol=1e-12)


def by_hand(name: str, h_TH: Tensor) -> Tensor:
    match name:
        case "mean" | "mean_padded":
            return torch.stack(list(h_TH)).sum(0) / len(h_TH)
        case "max":
            return torch.stack([max(h_TH[:, u]) for u in range(h_TH.shape[1])])
        case "last":
            return h_TH[-1]
        case "mean_max":
            return torch.cat([by_hand("mean", h_TH), by_hand("max", h_TH)])
    raise AssertionError(name)


def test_last_takes_the_final_state_of_both_directions() -> None:
    net = classifier("gru", "model.pooling=last", "model.bidirectional=true")
    h_TBH = net.backbone(net.embedding(TOKENS.T), LENGTHS)
    for review, length in enumerate(LENGTHS.tolist()):
        final = torch.cat([h_TBH[length - 1, review, :4], h_TBH[0, review, 4:]])
        torch.testing.assert_close(net(TOKENS, LENGTHS)[review], net.head(final))


@pytest.mark.parametrize("name", POOLINGS)
def test_poolings_equal_a_loop_by_hand(name: str) -> None:
    torch.manual_seed(1)
    h_TBH = torch.randn(6, 3, 4, dtype=torch.float64)
    lengths = torch.full((3,), 6) if name == "mean_padded" else LENGTHS
    pooled = POOLINGS[name](h_TBH, lengths)
    for review, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(pooled[review], by_hand(name, h_TBH[:length, review]))


def test_nll_is_cross_entropy_with_its_gradients() -> None:
    torch.manual_seed(2)
    logits = (torch.randn(50, 2, dtype=torch.float64) * 20).requires_grad_()
    labels = torch.randint(2, (50,))
    losses = [LOSSES[name](logits, labels) for name in ("nll", "cross_entropy")]
    torch.testing.assert_close(*losses, rtol=1e-14, atol=1e-14)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-14)


def test_nll_on_raw_logits_is_minus_the_logit_of_the_label() -> None:
    logits = torch.tensor([[1.0, -2.0], [3.0, 5.0]])
    found = LOSSES["nll_on_raw_logits"](logits, torch.tensor([1, 0]))
    assert found.tolist() == [2.0, -3.0]


def test_the_schema_has_every_pooling_and_loss() -> None:
    for key, names in (("model.pooling", POOLINGS), ("model.loss", LOSSES)):
        assert KEYS[key].rule.description == f"one of {', '.join(names)}"


def test_the_embedding_has_pytorchs_gradient_bit_for_bit() -> None:
    torch.manual_seed(6)
    theirs = torch.nn.Embedding(50, 4)
    ours = Embedding(50, 4)
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.randint(0, 50, (7, 40)).T  # words come again and again
    weights = torch.randn(40, 7, 4)
    for table in (theirs, ours):
        (table(tokens) * weights).sum().backward()
    assert ours.weight.grad is not None and theirs.weight.grad is not None
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


def test_epoch_outputs_keep_any_number_of_reviews() -> None:
    kept = EpochOutputs()
    batches = [torch.arange(n, n + 9_999) for n in range(0, 99_990, 9_999)]
    for _ in range(2):
        kept.clear()
        for batch in batches:
            kept.add(batch.float(), batch)
        values, numbers = kept.state()
        assert torch.equal(numbers, torch.cat(batches))
        assert torch.equal(values, numbers.float())
    kept.clear()
    kept.add(torch.ones(2, dtype=torch.float64), torch.ones(2).long())
    assert kept.state()[0].dtype == torch.float64
    assert torch.equal(values[:2], torch.tensor([0.0, 1.0]))  # an earlier copy is unchanged


@pytest.mark.parametrize(("model", "pooling"), list(product(MODELS, POOLINGS)))
def test_every_parameter_moves_in_one_step(model: str, pooling: str) -> None:
    net = classifier(
        model, f"model.pooling={pooling}", "model.num_layers=2", "model.bidirectional=true"
    )
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = net.configure_optimizers()
    net._step((TOKENS, LENGTHS, LABELS, torch.arange(3)), "train").backward()
    optimizer.step()
    still = [name for name, p in net.named_parameters() if torch.equal(p, before[name])]
    assert still == []


@pytest.mark.parametrize("model", MODELS)
def test_eight_reviews_are_overfitted(model: str) -> None:
    torch.manual_seed(3)
    net = classifier(
        model, "optim.lr=0.02", "data.vocab_size=50", "model.hidden_size=16", double=False
    )
    net.train()
    tokens, lengths = torch.randint(3, 50, (8, 12)), torch.randint(2, 13, (8,))
    batch = (tokens, lengths, torch.arange(8) % 2, torch.arange(8))
    optimizer = net.configure_optimizers()
    for _ in range(150):
        optimizer.zero_grad()
        net._step(batch, "train").backward()
        optimizer.step()
    net.eval()
    assert net._step(batch, "val").item() < 0.02


def test_loss_before_training_is_that_of_a_coin() -> None:
    net = classifier("gru", "model.hidden_size=64")
    loss = net._step((TOKENS, LENGTHS, LABELS, torch.arange(3)), "val")
    assert abs(loss.item() - math.log(2)) < 0.1


def test_scores_are_means_over_reviews_not_over_batches() -> None:
    net = classifier("rnn", double=False)
    batches = [
        (TOKENS, LENGTHS, LABELS, torch.arange(3)),
        (TOKENS[:1], LENGTHS[:1], LABELS[:1], torch.tensor([3])),
    ]
    for batch in batches:
        net._step(batch, "val")
    output = net.eval_output("val")
    with torch.no_grad():
        logits = torch.cat([net(b[0], b[1]) for b in batches])
    labels = torch.cat([b[2] for b in batches])
    losses = LOSSES["cross_entropy"](logits, labels).double()
    assert output.loss == pytest.approx(losses.sum().item() / 4, rel=1e-6)
    assert output.accuracy == (logits.argmax(1) == labels).sum().item() / 4
    assert output.index_N.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(output.logit_N, logits[:, 1] - logits[:, 0])


@pytest.mark.parametrize(
    "model",
    [
        {"cell": {"_target_": "subprocess.Popen"}},
        {"cell": {"_target_": "pathlib.Path"}},
        {"layer": {"_target_": "torch.nn.Linear"}},
        {"layer": {"_target_": "pathlib.Path"}},
    ],
)
def test_only_recurrent_layers_are_instantiated(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not"):
        classifiers.layer_factory(model)
