"""From a review's text to token ids: the report's encoding.

Lower case, punctuation to spaces, split on white space, ids by frequency in the train split.
Id 0 is padding, 1 the start token that opens every review, 2 any word outside the vocabulary.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator

import numpy as np
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer


PADDING, START, UNKNOWN = 0, 1, 2
SPECIAL = ["[PAD]", "[START]", "[UNK]"]  # brackets are punctuation: no text spells these
CHUNK = 2_000  # reviews encoded at a time, so that memory stays flat

log = logging.getLogger(__name__)


class Tokenizer:
    """A vocabulary, and the truncation of long reviews.

    `truncation` keeps the first tokens ("head"), the last ("tail") or the first and last halves
    ("head_tail") of a review of more than `max_length` tokens; the start token counts and is kept.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, max_length: int, truncation: str) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation
        if truncation == "head_tail":
            tokenizer.no_truncation()
        else:
            side = {"head": "right", "tail": "left"}[truncation]
            tokenizer.enable_truncation(max_length, direction=side)
        self.latin = Latin1FastPath(tokenizer)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, max_length: int, truncation: str
    ) -> Tokenizer:
        """The `vocab_size - 2` most frequent words of `texts`, ties in alphabetical order."""
        counter = _word_level(WordLevel(unk_token=SPECIAL[UNKNOWN]))
        trainer = WordLevelTrainer(
            vocab_size=vocab_size + 1, special_tokens=SPECIAL, show_progress=False
        )
        counter.train_from_iterator(texts, trainer)
        # Rebuilt, since the trainer makes it recognise special tokens in the text of reviews.
        vocabulary = counter.get_vocab(with_added_tokens=True)
        tokenizer = _word_level(WordLevel(vocabulary, unk_token=SPECIAL[UNKNOWN]))
        return cls(tokenizer, max_length, truncation)

    @classmethod
    def from_json(cls, content: str, max_length: int, truncation: str) -> Tokenizer:
        """The tokenizer that `json` returned. Raises ValueError."""
        return cls(loads(content), max_length, truncation)

    def json(self) -> str:
        """The content of tokenizer.json: all but head_tail truncation, in `tokenizers`' format."""
        return self.tokenizer.to_str(pretty=False)

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of all texts end to end (int32), and the N+1 offsets between them (int64)."""
        ids: list[np.ndarray] = []
        lengths = [0]
        for start in range(0, len(texts), CHUNK):
            for review in self._reviews(texts[start : start + CHUNK]):
                if self.truncation == "head_tail" and len(review) > self.max_length:
                    tail = self.max_length // 2
                    review = np.concatenate([review[: self.max_length - tail], last(review, tail)])
                ids.append(review)
                lengths.append(len(review))
        tokens = np.concatenate(ids) if ids else np.empty(0, np.int32)
        return tokens, np.cumsum(lengths, dtype=np.int64)

    def _reviews(self, texts: list[str]) -> Iterator[np.ndarray]:
        """Token ids of each text; Latin-1 by the fast path, the others in one batch."""
        plain = [self.latin.bytes(text) for text in texts]
        others = [text for text, known in zip(texts, plain, strict=True) if known is None]
        encoded = iter(self.tokenizer.encode_batch_fast(others))
        for text in plain:
            if text is None:
                yield np.array(next(encoded).ids, dtype=np.int32)
            else:
                words = self._split(text)
                yield np.array([START, *map(self.latin.__getitem__, words)], dtype=np.int32)

    def _split(self, text: bytes) -> list[bytes]:
        """The words that truncation keeps; all of them for head_tail."""
        kept = self.max_length - 1
        if self.truncation == "head":
            return text.split(None, kept)[:kept]
        words = text.split()
        return words[max(0, len(words) - kept) :] if self.truncation == "tail" else words


class Latin1FastPath(dict[bytes, int]):
    """The ids of words in Latin-1: the same as the library's, several times as fast.

    The library's rules map one character to one, so a table of 256 bytes contains them.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        super().__init__({known: n for word, n in vocabulary.items() if (known := latin(word))})
        letters = [tokenizer.normalizer.normalize_str(chr(code)) for code in range(256)]
        blank = {c for c in letters if not tokenizer.pre_tokenizer.pre_tokenize_str(c)}
        self.table = "".join(" " if c in blank else c for c in letters).encode("latin-1")

    def __missing__(self, word: bytes) -> int:
        return UNKNOWN

    def bytes(self, text: str) -> bytes | None:
        """Lower case, a space for each punctuation mark; None if the text is not Latin-1."""
        known = latin(text)
        return None if known is None else known.translate(self.table)


def latin(text: str) -> bytes | None:
    """The text in Latin-1, or None."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return None


def last(review: np.ndarray, count: int) -> np.ndarray:
    """The last `count` tokens; none if count is 0, unlike review[-count:]."""
    return review[len(review) - count :]


def loads(content: str) -> tokenizers.Tokenizer:
    """A tokenizer from its JSON: the vocabulary of a stranger with the rules of this module.

    Rules of another kind could take any time and memory. Raises ValueError.
    """
    try:
        found = json.loads(content)
        vocabulary = found["model"].pop("vocab")
        ids = sorted(vocabulary.values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a tokenizer: {error}") from None
    if ids != list(range(len(ids))) or [vocabulary.get(word) for word in SPECIAL] != [
        *(PADDING, START, UNKNOWN)
    ]:
        raise ValueError("not a tokenizer of a run: its ids are not 0, 1, 2, ...")
    tokenizer = _word_level(WordLevel(vocabulary, unk_token=SPECIAL[UNKNOWN]))
    ours = json.loads(tokenizer.to_str())
    del ours["model"]["vocab"]
    if {**found, "truncation": None} != {**ours, "truncation": None}:
        raise ValueError("not a tokenizer of a run: it has other rules")
    return tokenizer


def _word_level(model: WordLevel) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    punctuation = normalizers.Replace(Regex(r"[\p{P}\p{S}]+"), " ")
    tokenizer.normalizer = normalizers.Sequence([punctuation, normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{SPECIAL[START]} $A", special_tokens=[(SPECIAL[START], START)]
    )
    return tokenizer
