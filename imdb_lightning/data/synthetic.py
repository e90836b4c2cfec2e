"""A small grammar of film reviews whose label is known to be recoverable.

A review is neutral talk about a film with 3, 5 or 7 opinions in it ("the acting was superb"). An
opinion's last word, an adjective, is decisive: nothing else carries the label. Each agrees with the
label with probability 0.9, so that counting them is right in about 98 % of reviews however long the
review is. The last is followed by exactly `distance` neutral tokens: what a model then misses
is memory. Lengths follow IMDB's (log-normal, median 174 tokens, mean 234), as far as `distance` and
`max_length` let them.
"""

from __future__ import annotations

import numpy as np

from .labels import NO_LABEL
from .sources import UNLABELLED, Reviews


POSITIVE = (
    "superb wonderful brilliant delightful moving gripping masterful charming hilarious stunning "
    "excellent touching clever beautiful terrific"
).split()
NEGATIVE = (
    "awful dreadful tedious clumsy pointless dull terrible painful lifeless laughable horrible "
    "boring stupid ugly pathetic"
).split()

AGREEMENT = 0.9  # probability that a decisive word agrees with the label
MEDIAN_LENGTH, SPREAD = 174, 0.77  # of the log-normal: IMDB's words per review
NUM_SENTENCES = 5_000  # different neutral sentences
HEAD = 40  # tokens that always fit in front of the distance: seven opinions of up to five words

SUBJECTS = (
    "the plot|the acting|the camera work|the music|the script|the ending|the lead|the cast|"
    "the direction|the editing|the dialogue|the first act|the sound|the costume design"
).split("|")
VERBS = "was|is|looked|sounded|felt|seemed".split("|")

PEOPLE = (
    "the director|the hero|her brother|a young doctor|the detective|an old friend|the captain|"
    "his wife|the narrator|a stranger|the neighbour|the crew|a reporter|the teacher|the producer"
).split("|")
ACTIONS = (
    "walks into|drives through|talks about|remembers|looks for|returns to|leaves|finds|films|"
    "writes about|waits outside|moves to|dreams of|hears about|stays in"
).split("|")
PLACES = (
    "the house|a small town|the station|the harbour|an empty street|the city|a hotel|"
    "the old school|the office|a farm|the island|the theatre|a train|the garden|the hospital"
).split("|")
TIMES = (
    "in the morning|at night|after the war|before the storm|in the second half|one summer|"
    "years later|at the start|near the end|in winter|during the party|on the last day"
).split("|")


def corpus(
    train_size: int,
    test_size: int,
    distance: int,
    max_length: int,
    seed: int,
    unlabelled: bool = False,
) -> dict[str, Reviews]:
    """Reviews for "train" and "test", half of each positive; a pure function of its arguments.

    With `unlabelled`, as many again as for "train", without labels, as "unsupervised".

    `distance` and `max_length` count tokens, the start token included in `max_length`. Raises
    ValueError if a review of `max_length` has no room for `distance` and the opinions.
    """
    if distance + HEAD >= max_length:
        raise ValueError(f"max_length must be over distance + {HEAD}, here {distance + HEAD}")
    random = np.random.default_rng(seed)
    pool = [_neutral_sentence(random) for _ in range(NUM_SENTENCES)]
    splits = {
        split: _split(size, distance, max_length - 1, pool, random)
        for split, size in (("train", train_size), ("test", test_size))
    }
    if unlabelled:
        texts, labels = _split(train_size, distance, max_length - 1, pool, random)
        splits[UNLABELLED] = Reviews(texts, np.full_like(labels, NO_LABEL))
    return splits


def _split(
    size: int, distance: int, longest: int, pool: list[list[str]], random: np.random.Generator
) -> Reviews:
    labels = random.permutation(np.arange(size) % 2)
    lengths = random.lognormal(np.log(MEDIAN_LENGTH), SPREAD, size).astype(int)
    lengths = lengths.clip(min(distance + HEAD, longest), longest)
    texts = [
        _review(int(label), int(length), distance, pool, random)
        for label, length in zip(labels, lengths, strict=True)
    ]
    return Reviews(texts, labels.astype(np.int64))


def _review(
    label: int, length: int, distance: int, pool: list[list[str]], random: np.random.Generator
) -> str:
    decisive = random.random(random.choice([3, 5, 7])) < AGREEMENT
    opinions = [_opinion(bool(label) == bool(agrees), random) for agrees in decisive]
    neutral = _neutral(length - distance - sum(map(len, opinions)), pool, random)
    # All opinions except the last are between neutral sentences; the last one ends the head.
    for opinion in opinions[:-1]:
        neutral.insert(int(random.integers(len(neutral) + 1)), opinion)
    sentences = [*neutral, opinions[-1], *_neutral(distance, pool, random)]
    return " ".join(" ".join(words).capitalize() + "." for words in sentences)


def _opinion(positive: bool, random: np.random.Generator) -> list[str]:
    adjective = _pick(POSITIVE if positive else NEGATIVE, random)
    return [*_pick(SUBJECTS, random).split(), _pick(VERBS, random), adjective]


def _neutral(tokens: int, pool: list[list[str]], random: np.random.Generator) -> list[list[str]]:
    """Neutral sentences of `tokens` words in all; the last one may break off."""
    sentences = []
    while tokens > 0:
        sentence = pool[int(random.random() * len(pool))][:tokens]
        sentences.append(sentence)
        tokens -= len(sentence)
    return sentences


def _neutral_sentence(random: np.random.Generator) -> list[str]:
    parts = (_pick(kind, random) for kind in (PEOPLE, ACTIONS, PLACES, TIMES))
    return " ".join(parts).split()


def _pick(words: list[str], random: np.random.Generator) -> str:
    return words[int(random.random() * len(words))]
