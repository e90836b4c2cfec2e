"""The model of the next words: what it predicts from what, and its losses.

pytest tests/model/test_next_words.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from imdb_lightning.model.next_words import NextWords, Sampled
from tests.conftest import TINY, composed


ROWS = 30


def model_of(*overrides: str, window: int = 1, samples: int = 20) -> NextWords:
    cfg = composed(*TINY, f"data.vocab_size={ROWS - 1}", "model.dropout=0", *overrides)
    torch.manual_seed(0)
    made = NextWords.from_config(cfg.model, cfg.optim, window, samples).double()
    for bias in made.bias:
        torch.nn.init.normal_(bias)
    return made


def batch_of(*lengths: int) -> Any:
    random = torch.Generator().manual_seed(3)
    tokens_BT = torch.randint(2, ROWS, (len(lengths), max(lengths)), generator=random)
    tokens_BT[:, 0] = 1
    for review, length in enumerate(lengths):
        tokens_BT[review, length:] = 0
    nothing = torch.zeros(len(lengths))
    return tokens_BT, torch.tensor(lengths), nothing, nothing


def by_hand(model: NextWords, tokens: list[int]) -> tuple[float, int]:
    """Sum of nats and number of words, of one review, word by word from what stands before it."""
    total, count = 0.0, 0
    whole = torch.tensor(tokens)
    for direction in range(model.backbone.directions):
        for place in range(1, len(tokens)):
            if direction == 0:
                seen = whole[:place]
            elif place < len(tokens) - 1:
                seen = whole[place + 1 :].flip(0)
            else:
                continue  # nothing stands behind the last word
            layers = model.backbone.backwards if direction else model.backbone.forwards
            h_TBH, _ = layers[0](model.embedding(seen[:, None]))
            out_E = model.project[direction](h_TBH[-1, 0])
            scores_V = model.embedding.weight @ out_E + model.bias[direction]
            scores_V[:2] = -torch.inf
            total -= scores_V.log_softmax(0)[whole[place]].item()
            count += 1
    return total, count


@pytest.mark.parametrize("kind", ["lstm", "gru", "custom_lstm", "custom_gru", "custom_rnn"])
@pytest.mark.parametrize("bidirectional", ["true", "false"])
def test_each_word_is_predicted_from_what_the_direction_has_read(
    kind: str, bidirectional: str
) -> None:
    model = model_of(f"model={kind}", f"model.bidirectional={bidirectional}").eval()
    tokens_BT, lengths_B, *_ = batch = batch_of(9, 4, 2, 6)
    parts = [
        by_hand(model, tokens_BT[review, :length].tolist())
        for review, length in enumerate(lengths_B.tolist())
    ]
    nats, words = (sum(values) for values in zip(*parts, strict=True))
    model.validation_step(batch, 0)
    assert model.measures("val")["loss"] == pytest.approx(nats / words, rel=1e-9)


def test_a_window_has_the_next_words_in_it_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told to be predicted from each place, many times over."""
    model = model_of("model=custom_rnn", "model.bidirectional=true", window=3)
    tokens_BT = torch.tensor([[1, 5, 6, 7, 8, 9, 10], [1, 15, 16, 17, 0, 0, 0]])
    lengths_B = torch.tensor([7, 4])
    told: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(out_NE: torch.Tensor, words_N: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        told.append((out_NE, words_N))
        return out_NE.sum() * 0

    monkeypatch.setattr(model, "sampled_loss", keep)
    h_TBH = model(tokens_BT, lengths_B)
    pairs: dict[int, set[tuple[int, int]]] = {0: set(), 1: set()}
    for _ in range(200):
        told.clear()
        model.training_step((tokens_BT, lengths_B, lengths_B, lengths_B), 0)
        for direction, (out_NE, words_N) in enumerate(told):
            own_TBE = model.project[direction](h_TBH.chunk(2, dim=2)[direction])
            for out_E, word in zip(out_NE, words_N, strict=True):
                t, b = ((own_TBE - out_E).abs().amax(2) < 1e-12).nonzero()[0].tolist()
                pairs[direction].add((int(tokens_BT[b, t]), int(word)))
    one, two = [1, 5, 6, 7, 8, 9, 10], [1, 15, 16, 17]
    every = [(r[i], r[j]) for r in (one, two) for i in range(len(r)) for j in range(1, len(r))]
    # START stands in both reviews, with one state: which of the two it was cannot be told.
    expected = {
        0: {p for p in every if p[0] != 1 and 0 < p[1] - p[0] <= 3},
        1: {p for p in every if 0 < p[0] - p[1] <= 3},
    }
    assert {p for p in pairs[0] if p[0] != 1} == expected[0]
    assert {p[1] for p in pairs[0] if p[0] == 1} == {5, 6, 7, 15, 16, 17}
    assert pairs[1] == expected[1]


def test_frequent_words_are_left_out_as_skip_gram_leaves_them_out() -> None:
    model = model_of(window=2)
    tokens = torch.tensor([3] * 9_000 + [4] * 999 + [5])
    model.count(tokens)
    for word, share in ((3, 0.9), (4, 0.0999)):
        expected = (1e-4 / share) ** 0.5 + 1e-4 / share
        assert model.kept_V[word].item() == pytest.approx(expected)
    assert model.kept_V[5] == 1
    assert (model_of(window=1).kept_V == 1).all()


def test_a_review_alone_and_among_others_has_the_same_loss() -> None:
    model = model_of("model=custom_lstm", "model.bidirectional=true").eval()
    tokens_BT, lengths_B, *rest = batch_of(9, 5)
    model.validation_step((tokens_BT[1:, :5], lengths_B[1:], *rest), 0)
    alone = model.rows("val")
    model.on_validation_epoch_start()
    model.validation_step((tokens_BT[:1], lengths_B[:1], *rest), 0)
    model.validation_step((tokens_BT[1:], lengths_B[1:], *rest), 0)
    torch.testing.assert_close(model.rows("val")[0][1:], alone[0])


def test_a_sample_of_all_words_is_the_whole_vocabulary() -> None:
    """Each word is expected once then, and the corrections are 0."""
    model = model_of(samples=20_000)
    model.count(torch.arange(ROWS))
    out_NE, words_N = torch.randn(11, 8).double(), torch.randint(2, ROWS, (11,))
    sampled = model.sampled_loss(out_NE, words_N, model.bias[0])
    torch.testing.assert_close(sampled, model.whole_loss(out_NE, words_N, model.bias[0]))


def test_the_probabilities_that_a_small_sample_teaches_are_right() -> None:
    """With nothing but a bias to learn, it becomes how often each word stands there."""
    model = model_of(samples=12)
    words_N = torch.multinomial(torch.arange(ROWS).clamp(min=0).float() ** 2, 4_000, True)
    words_N = words_N[words_N > 1]
    model.count(words_N)
    bias_V = torch.zeros(ROWS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([bias_V], lr=0.02)
    nothing_NE = torch.zeros(len(words_N), 8, dtype=torch.float64)
    mean_V = torch.zeros(ROWS, dtype=torch.float64)  # of the second half, without its noise
    for step in range(1_000):
        optimizer.zero_grad()
        (model.sampled_loss(nothing_NE, words_N, bias_V) / len(words_N)).backward()
        optimizer.step()
        mean_V += bias_V.detach() / 500 if step >= 500 else 0
    often = torch.bincount(words_N, minlength=ROWS) / len(words_N)
    known = often > 0.01  # and draws depend a little on each other, which the corrections leave out
    learned = mean_V[2:].softmax(0)
    torch.testing.assert_close(learned[known[2:]].float(), often[known], rtol=0.2, atol=0)


def test_gradients_of_the_sampled_loss_are_right() -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(*shape).double() for shape in ((7, 5), (7,), (4, 5), (4,))]
    place_N = torch.tensor([-1, 0, 3, -1, 2, -1, 3])
    for tensor in inputs:
        tensor.requires_grad_()
    torch.autograd.gradcheck(lambda *x: Sampled.apply(*x, place_N), inputs)

    out_NE, own_N, weight_SE, bias_S = inputs
    scores_NS = out_NE @ weight_SE.T + bias_S
    scores_NS = scores_NS.masked_fill(place_N[:, None] == torch.arange(4), -torch.inf)
    expected = (torch.logaddexp(own_N, scores_NS.logsumexp(1)) - own_N).sum()
    torch.testing.assert_close(Sampled.apply(*inputs, place_N), expected)


def test_padding_and_the_start_are_never_predicted() -> None:
    model = model_of()
    model.count(torch.tensor([0, 1, 1, 2, 5, 5]))
    assert model.share_V[[0, 1, 3]].tolist() == [0, 0, 0]
    assert model.share_V[5] / model.share_V[2] == pytest.approx(2**0.75)
