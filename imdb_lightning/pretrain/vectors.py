"""Word vectors from the reviews themselves: skip-gram with negative samples, by gensim."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data.batches import EncodedReviews


log = logging.getLogger(__name__)


class Reviews:
    """The reviews as gensim wants them: lists of words, which here are the ids as text."""

    def __init__(self, reviews: EncodedReviews) -> None:
        self.reviews = reviews
        self.names = np.array([str(word) for word in range(int(reviews.tokens.max()) + 1)], object)

    def __iter__(self) -> Iterator[list[str]]:
        words = self.names[self.reviews.tokens]
        offsets = self.reviews.offsets
        for start, end in zip(offsets[:-1], offsets[1:], strict=True):
            yield words[start + 1 : end].tolist()  # without START


def skip_gram(
    reviews: EncodedReviews,
    rows: int,
    size: int,
    window: int,
    negatives: int,
    epochs: int,
    seed: int,
) -> np.ndarray:
    """Vectors (rows, size) of the word ids, float32; zeros where an id stands nowhere.

    Mikolov et al. 2013, with one thread, since several make another result each time.
    """
    from gensim.models import Word2Vec
    from gensim.models.callbacks import CallbackAny2Vec

    class Progress(CallbackAny2Vec):
        epoch = 0

        def on_epoch_end(self, model: Any) -> None:
            self.epoch += 1
            log.info("vectors, epoch %d/%d", self.epoch, epochs)

    logging.getLogger("gensim").setLevel(logging.WARNING)
    trained = Word2Vec(
        Reviews(reviews),
        vector_size=size,
        window=window,
        sg=1,
        negative=negatives,
        epochs=epochs,
        min_count=1,
        workers=1,
        seed=seed,
        callbacks=[Progress()],
    )
    vectors = np.zeros((rows, size), np.float32)
    vectors[[int(name) for name in trained.wv.index_to_key]] = trained.wv.vectors
    return vectors
