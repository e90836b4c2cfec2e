"""Word vectors of the reviews themselves: skip-gram with negative sampling, by gensim."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from ..callbacks.run_logger import RunLogger
from ..data.batches import EncodedReviews
from ..data.datamodule import ReviewDataModule
from ..runs import checkpoint
from ..runs.run import Run


log = logging.getLogger(__name__)


def pretrain_vectors(
    cfg: DictConfig, run: Run, run_logger: RunLogger, data: ReviewDataModule
) -> dict[str, Any]:
    """Word vectors, saved as the embedding of a classifier; returns the content of metrics.json."""
    rows, size = cfg.data.vocab_size + 1, cfg.model.embedding_size
    run_logger.on_run_start(data, parameters=rows * size)
    vectors_VE = skip_gram(
        data.splits["train"],
        rows,
        size,
        window=cfg.pretrain.window,
        negative_samples=cfg.pretrain.negative_samples,
        epochs=cfg.trainer.max_epochs,
        seed=cfg.seed,
    )
    checkpoint.save({"state_dict": {"embedding.weight": torch.from_numpy(vectors_VE)}}, run.vectors)
    run_logger.add_resources(torch.device("cpu"))
    run_logger.on_run_end()
    seconds = run_logger.metrics["seconds"]
    log.info("done in %.0f s; pretrained=%s initialises a classifier", seconds, run.path)
    return run_logger.metrics


class Sentences:
    """The reviews in gensim's form: lists of words, which are the token ids as strings."""

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
    negative_samples: int,
    epochs: int,
    seed: int,
) -> np.ndarray:
    """Vectors (rows, size) of the token ids, float32; zeros for an id that does not occur.

    Mikolov et al. 2013. One thread, since several are not reproducible.
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
        Sentences(reviews),
        vector_size=size,
        window=window,
        sg=1,
        negative=negative_samples,
        epochs=epochs,
        min_count=1,
        workers=1,
        seed=seed,
        callbacks=[Progress()],
    )
    vectors = np.zeros((rows, size), np.float32)
    vectors[[int(name) for name in trained.wv.index_to_key]] = trained.wv.vectors
    return vectors
