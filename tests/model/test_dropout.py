"""What dropout of embedded reviews drops.

pytest tests/model/test_dropout.py
"""

from __future__ import annotations

import torch

from imdb_lightning.model.dropout import EmbeddingDropout, VariationalDropout


x_TBE = torch.randn(7, 50, 40, generator=torch.Generator().manual_seed(0))
tokens_TB = torch.randint(0, 9, (7, 50), generator=torch.Generator().manual_seed(1))


def test_features_are_dropped_at_all_tokens_of_a_review() -> None:
    kept = VariationalDropout(0.3)(x_TBE) / x_TBE
    dropped = kept == 0
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    torch.testing.assert_close(kept[~dropped], torch.full_like(kept[~dropped], 1 / 0.7))
    assert 0.25 < dropped[0].float().mean() < 0.35
    assert not torch.equal(dropped[0, 0], dropped[0, 1])


def test_words_are_dropped_at_every_occurrence() -> None:
    seen = set()
    for _ in range(20):
        kept = EmbeddingDropout(0.5, 9)(x_TBE, tokens_TB) / x_TBE
        words = tokens_TB[kept[..., 0] == 0].unique()
        there = torch.isin(tokens_TB, words)
        assert torch.equal(kept == 0, there[..., None].expand_as(kept))
        torch.testing.assert_close(kept[~there], torch.full_like(kept[~there], 2.0))
        seen.add(tuple(words.tolist()))
    assert len(seen) > 5


def test_nothing_is_dropped_outside_of_training() -> None:
    assert VariationalDropout(0.9).eval()(x_TBE) is x_TBE
    assert EmbeddingDropout(0.9, 9).eval()(x_TBE, tokens_TB) is x_TBE
