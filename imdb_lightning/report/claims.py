"""The claims of the report, each tested on these runs, with a verdict of one word.

Differences are in accuracy on the test split, on which nothing was selected, between runs with the
same seed. A difference below `MARGIN` counts as none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..metrics import significance
from . import published
from .runs import Configuration


MARGIN = 0.01  # accuracy: the report's own differences are up to 0.014
ALPHA = 0.05  # after Holm
MIN_SEEDS = 3  # fewer say nothing about other seeds

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"


@dataclass
class Claim:
    """A sentence and its test. Accuracies are fractions 0..1."""

    text: str
    verdict: str = UNDECIDED
    why: str = ""  # if it is not in the numbers
    between: str = ""
    seeds: list[int] = field(default_factory=list)
    difference: float | None = None
    interval: tuple[float, float] | None = None
    val_difference: float | None = None
    pairs: list[significance.McNemar] = field(default_factory=list)  # by seed
    p: float | None = None
    p_holm: float | None = None
    rule: Callable[[Claim], str] | None = None


# Rules


def better(claim: Claim) -> str:
    """The first is better than the second."""
    assert claim.interval is not None and claim.p_holm is not None
    low, high = claim.interval
    if low > 0 and claim.p_holm < ALPHA:
        return SUPPORTED
    return NOT_SUPPORTED if high < MARGIN else UNDECIDED


def no_difference(claim: Claim) -> str:
    """There is no significant difference."""
    assert claim.interval is not None and claim.p_holm is not None
    low, high = claim.interval
    if claim.p_holm < ALPHA and not low <= 0 <= high:
        return NOT_SUPPORTED
    return SUPPORTED if -MARGIN < low and high < MARGIN else UNDECIDED


# Tests


def paired(
    text: str,
    rule: Callable[[Claim], str],
    first: Configuration | None,
    second: Configuration | None,
) -> Claim:
    """The first against the second on the same reviews."""
    if first is None or second is None:
        return Claim(text, rule=rule, why="there are no such runs")
    return paired_on_all(text, rule, f"{first.label} - {second.label}", [(first, second)])


def paired_on_all(
    text: str,
    rule: Callable[[Claim], str],
    between: str,
    sides: Sequence[tuple[Configuration, Configuration]],
) -> Claim:
    """The first of each pair against the second, on the reviews of all pairs together."""
    claim = Claim(text, rule=rule, between=between)
    if not sides:
        claim.why = "there are no such runs"
        return claim
    claim.seeds = sorted(set.intersection(*(set(a.results) & set(b.results) for a, b in sides)))
    correct: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"val": [], "test": []}
    for seed in claim.seeds:
        for split in correct:
            runs = [
                (a.results[seed].splits[split], b.results[seed].splits[split]) for a, b in sides
            ]
            same = all(a.fingerprint == b.fingerprint for a, b in sides)
            if not same or not all(np.array_equal(a.index, b.index) for a, b in runs):
                claim.why = "the runs did not see the same reviews"
                return claim
            first, second = (
                np.concatenate([side.correct for side in row]) for row in zip(*runs, strict=True)
            )
            correct[split].append((first, second))
    return _test(claim, correct["test"], correct["val"])


def against_constant_prediction(text: str, configuration: Configuration | None) -> Claim:
    """A configuration against its more frequent prediction for every review."""
    claim = Claim(text, rule=no_difference)
    if configuration is None:
        claim.why = "there are no such runs"
        return claim
    claim.between = f"{configuration.label} - constant prediction"
    claim.seeds = sorted(configuration.results)
    correct: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"val": [], "test": []}
    for seed in claim.seeds:
        for split, predictions in configuration.results[seed].splits.items():
            answer = (predictions.logit > 0).mean() > 0.5  # the run's more frequent one
            correct[split].append((predictions.correct, predictions.label == answer))
    return _test(claim, correct["test"], correct["val"])


def _test(
    claim: Claim,
    test: Sequence[tuple[np.ndarray, np.ndarray]],
    val: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Claim:
    if not test:
        claim.why = "they share no seed"
        return claim
    differences_SN = np.array([a.astype(np.int8) - b.astype(np.int8) for a, b in test])
    claim.difference = float(differences_SN.mean())
    claim.interval = significance.paired_interval(differences_SN)
    claim.val_difference = float(np.mean([a.mean() - b.mean() for a, b in val]))
    claim.pairs = [significance.mcnemar(a, b) for a, b in test]
    claim.p = significance.combined_p(
        *([pair.one_sided(side) for pair in claim.pairs] for side in ("greater", "less"))
    )
    return claim


def unpaired(
    text: str,
    rule: Callable[[Claim], str],
    first: Configuration | None,
    second: Configuration | None,
) -> Claim:
    """The first against the second on other reviews; p by Fisher's exact test, seed by seed."""
    claim = Claim(text, rule=rule)
    if first is None or second is None:
        claim.why = "there are no such runs"
        return claim
    claim.between = f"{first.label} - {second.label}"
    claim.seeds = sorted(set(first.results) & set(second.results))
    if not claim.seeds:
        claim.why = "they share no seed"
        return claim
    correct = [
        np.array([c.results[seed].splits["test"].correct for seed in claim.seeds])
        for c in (first, second)
    ]
    claim.difference = float(correct[0].mean() - correct[1].mean())
    claim.interval = significance.unpaired_interval(*correct)
    claim.val_difference = float(np.mean(first_minus_second_val(first, second, claim.seeds)))
    claim.p = significance.combined_p(
        *(
            [significance.fisher_exact_p(a, b, side) for a, b in zip(*correct, strict=True)]
            for side in ("greater", "less")
        )
    )
    return claim


def first_minus_second_val(
    first: Configuration, second: Configuration, seeds: Sequence[int]
) -> list[float]:
    accuracies = [[c.results[s].metrics["val/acc"] for s in seeds] for c in (first, second)]
    return [a - b for a, b in zip(*accuracies, strict=True)]


def identical(text: str, first: Configuration | None, second: Configuration | None) -> Claim:
    """A claim that two configurations have bit-identical logits."""
    claim = Claim(text)
    if first is None or second is None:
        claim.why = "there are no such runs"
        return claim
    claim.between = f"{first.label} - {second.label}"
    claim.seeds = sorted(set(first.results) & set(second.results))
    if not claim.seeds:
        claim.why = "they share no seed"
        return claim
    if first.fingerprint != second.fingerprint or not all(
        np.array_equal(first.results[s].splits[k].index, second.results[s].splits[k].index)
        for s in claim.seeds
        for k in ("val", "test")
    ):
        claim.why = "the runs did not see the same reviews"
        return claim
    gaps = [
        np.abs(first.results[s].splits[split].logit - second.results[s].splits[split].logit).max()
        for s in claim.seeds
        for split in ("val", "test")
    ]
    claim.why = f"largest difference of a logit after training: {max(gaps):.3g}"
    claim.verdict = SUPPORTED if max(gaps) == 0 else NOT_SUPPORTED
    return claim


def judge(claims: Sequence[Claim]) -> None:
    """Holm over the family of `claims`, then each one's verdict by its rule."""
    tested = [claim for claim in claims if claim.p is not None]
    adjusted = significance.holm([claim.p for claim in tested if claim.p is not None])
    for claim, p in zip(tested, adjusted, strict=True):
        claim.p_holm = p
        if len(claim.seeds) < MIN_SEEDS:
            claim.why = f"{len(claim.seeds)} matched seeds; a verdict needs {MIN_SEEDS}"
        elif claim.rule is not None:
            claim.verdict = claim.rule(claim)


# The report's claims


def report_claims(configurations: Sequence[Configuration]) -> list[Claim]:
    """The sentences of the report, in its order."""
    ours = {name: published.find(name, configurations) for name in published.runs()}
    nll = published.find("custom_lstm", configurations, "model.loss=nll")
    claims = [
        paired("A GRU is slightly better than an RNN", better, ours["gru"], ours["rnn"]),
        paired("An LSTM is slightly better than an RNN", better, ours["lstm"], ours["rnn"]),
        paired(
            "Hidden size 128 instead of 64 makes no significant difference",
            *(no_difference, ours["hidden_128"], ours["custom_lstm"]),
        ),
        paired(
            "Batch size 128 instead of 64 makes no significant difference",
            *(no_difference, ours["batch_128"], ours["custom_lstm"]),
        ),
        against_constant_prediction("NLL on raw logits does not train at all", ours["nll_raw"]),
        identical("log_softmax before NLL is exactly cross entropy", nll, ours["custom_lstm"]),
        *memory_claims(configurations),
    ]
    judge(claims)
    return claims


def memory_claims(configurations: Sequence[Configuration]) -> list[Claim]:
    """That an RNN forgets what is far back, and an LSTM and a GRU do not.

    Near is the shortest distance that all cells have runs of, far the longest.
    """
    models = memory(configurations)
    shared = sorted(set.intersection(*map(set, models.values()))) if models else []
    cells = {
        kind: models.get(f"custom_{kind}", models.get(kind)) if len(shared) > 1 else None
        for kind in ("rnn", "lstm", "gru")
    }

    def ends(kind: str) -> tuple[Configuration | None, Configuration | None]:
        cell = cells[kind]
        return (None, None) if cell is None else (cell[shared[0]], cell[shared[-1]])

    claims = [unpaired("An RNN forgets what is far back", better, *ends("rnn"))]
    for kind, name in (("lstm", "An LSTM"), ("gru", "A GRU")):
        claims.append(unpaired(f"{name} does not forget it", no_difference, *ends(kind)))
    rnn = cells["rnn"]
    for kind, name in (("lstm", "An LSTM"), ("gru", "A GRU")):
        cell = cells[kind]
        sides = [] if rnn is None or cell is None else [(cell[d], rnn[d]) for d in shared[1:]]
        between = f"{kind} - rnn, distances {', '.join(map(str, shared[1:]))}"
        text = f"{name} reaches farther back than an RNN: all distances but the nearest"
        claims.append(paired_on_all(text, better, between, sides))
    return claims


def memory(configurations: Sequence[Configuration]) -> dict[str, dict[int, Configuration]]:
    """By model and distance: synthetic runs that see only the last hidden state.

    If there are several kinds of such runs, those of the kind with most configurations.
    """
    kinds: dict[str, dict[str, dict[int, Configuration]]] = {}
    for c in configurations:
        if c.dataset == "synthetic" and c.config["model.pooling"] == "last":
            rest = {
                key: value
                for key, value in c.config.items()
                if key not in ("seed", "data.distance", "model.name", "model.implementation")
                and not key.startswith(("model.cell.", "model.layer."))
            }
            models = kinds.setdefault(str(sorted(rest.items())), {})
            distances = models.setdefault(c.config["model.name"], {})
            other = distances.get(c.config["data.distance"])
            if other is None or len(other.results) < len(c.results):
                distances[c.config["data.distance"]] = c
    return max(kinds.values(), key=lambda models: sum(map(len, models.values())), default={})


def against_the_best(configurations: Sequence[Configuration]) -> list[Claim]:
    """The best on val against each other configuration that saw the same reviews.

    Without runs that were trained on val.
    """
    configurations = [c for c in configurations if not c.config.get("data.train_on_val")]
    if len(configurations) < 2:
        return []
    best = max(configurations, key=lambda c: float(np.mean(c.values("val/acc"))))
    claims = [
        paired(f"{best.label} is better than {c.label}", better, best, c)
        for c in configurations
        if c is not best
    ]
    judge(claims)
    return claims
