"""Captured steps against steps as they are.

pytest tests/model/test_step_graphs.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from imdb_lightning.model.classifier import Batch, Classifier
from imdb_lightning.model.kernels.captured import Captured
from imdb_lightning.model.network import POOLINGS
from imdb_lightning.model.step_graphs import StepGraphs
from tests.conftest import composed


def classifier(pooling: str) -> Classifier:
    cfg = composed("model=custom_gru", f"model.pooling={pooling}", "data.max_length=40")
    torch.manual_seed(0)
    options = {**cfg.model, "vocab_size": 50, "dropout": 0, "hidden_size": 6}
    return Classifier.from_config(options, cfg.optim).double()


def batch(T: int, seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, T + 1, (5,), generator=random)
    lengths[0] = T
    tokens = torch.randint(1, 50, (5, T), generator=random)
    tokens[torch.arange(T) >= lengths[:, None]] = 0
    return tokens, lengths, torch.arange(5) % 2, torch.arange(5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_captured_step_has_the_loss_and_gradients_of_a_step(pooling: str) -> None:
    model = classifier(pooling)
    graphs = StepGraphs()
    # One graph for two lengths; a shorter batch after a longer one; the longest there is.
    for seed, T in enumerate((13, 16, 7, 40, 33)):
        given = batch(T, seed)
        found = graphs(model, given)
        assert found is not None
        loss, loss_B, logit_B = found
        exact_B, exact_logit_B = model.losses(given)
        grads = torch.autograd.grad(3 * loss, [*model.parameters()])
        exact = torch.autograd.grad(3 * exact_B.mean(), [*model.parameters()])
        for mine, target in zip(
            (loss_B, logit_B, *grads), (exact_B, exact_logit_B, *exact), strict=True
        ):
            torch.testing.assert_close(mine, target, rtol=1e-10, atol=1e-12)
    assert len(graphs.graphs) == (1 if pooling == "mean_padded" else 2)


def test_graphs_go_when_the_weights_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's first use moves a cell's weights: here a batch of 5 after one of 4."""
    model = classifier("mean")
    graphs = StepGraphs()
    losses = model.losses
    (layer,) = model.backbone.layers()

    def moving(given: Batch) -> tuple[Tensor, Tensor]:
        if len(given[0]) == 5 and not moved:
            moved.append(True)
            for parameter in layer.parameters():
                parameter.data = parameter.data.clone()
        return losses(given)

    moved: list[bool] = []
    monkeypatch.setattr(model, "losses", moving)
    tokens, lengths, labels, index = batch(9, 0)
    four = tokens[:4], lengths[:4], labels[:4], index[:4]
    assert graphs(model, four) is not None
    first = next(iter(graphs.graphs.values()))
    assert graphs(model, batch(9, 1)) is not None
    assert first not in graphs.graphs.values()
    assert graphs.data_pointers == tuple(p.data_ptr() for p in model.parameters())


def test_tokens_beyond_the_length_that_is_padded_to_are_cut() -> None:
    model = classifier("mean_padded")
    model.max_length = 10
    given = batch(14, 0)
    found = StepGraphs()(model, given)
    assert found is not None
    torch.testing.assert_close(found[1], model.losses(given)[0])


def test_a_graph_of_inference_mode_is_used_outside_of_it() -> None:
    with torch.inference_mode():
        captured = Captured(lambda x: [x + 1], [torch.zeros(3)])
    assert torch.equal(captured([torch.ones(3)])[0], torch.full((3,), 2.0))


def test_gradients_that_are_overwritten_are_refused() -> None:
    model = classifier("mean")
    graphs = StepGraphs()
    found = graphs(model, batch(9, 0))
    assert found is not None
    graphs(model, batch(9, 1))
    with pytest.raises(RuntimeError, match="overwritten by a later one"):
        found[0].backward()
