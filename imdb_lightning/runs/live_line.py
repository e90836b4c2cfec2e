"""The live line of a grid: runs that are done, the time left, and the epochs of those at work."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm


SHORTEST = 16  # characters of one run; more runs than fit are counted


class State(NamedTuple):
    """A run of the grid, as the line shows it."""

    label: str
    epochs: int  # completed
    of: int
    accuracy: float | None = None  # on val, of the latest epoch, 0..1

    @property
    def progress(self) -> str:
        accuracy = "" if self.accuracy is None else f" {self.accuracy:.3f}"
        return f"{self.epochs}/{self.of}{accuracy}"


def labels(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """The overrides that distinguish each job of a grid, in the order of the command line."""
    common = set.intersection(*map(set, job_overrides)) if job_overrides else set()
    own = [[text for text in texts if text not in common] for texts in job_overrides]
    return [",".join(t.lstrip("+").removeprefix("experiment=") for t in texts) for texts in own]


def time_left(
    finished: Sequence[float],
    running: Sequence[tuple[float, float | None]],
    waiting: int,
    slots: int,
) -> float | None:
    """Seconds until a grid is done; None if it is unknown, or is overdue.

    `finished` are the seconds of runs that are done; `running` pairs of the seconds so far and
    those that the run takes, by its epochs, if it has completed one.
    """
    known = [*finished, *(whole for _, whole in running if whole is not None)]
    if not known:
        return None
    mean = statistics.fmean(known)
    left = [max(0.0, (whole or mean) - so_far) for so_far, whole in running]
    return max([*left, (sum(left) + waiting * mean) / slots]) or None


def live_line(states: Sequence[State], left: float | None, width: int) -> str:
    """At most `width` characters: the time left, then a run each, cut in its label if need be."""
    head = "" if left is None else f"about {tqdm.format_interval(left)} left, "
    room = width - len(head)
    shown = max(1, min(len(states), (room + 2) // (SHORTEST + 2)))
    more = f" +{len(states) - shown}" if shown < len(states) else ""
    each = (room - len(more) + 2) // shown - 2
    texts = [f"{state.label} {state.progress}" for state in states[:shown]]
    if len(", ".join(texts)) + len(more) > room:
        texts = [_cut(state, each) for state in states[:shown]]
    return f"{head}{', '.join(texts)}{more}"[: max(0, width)]


def _cut(state: State, width: int) -> str:
    epochs = f" {state.progress}"
    room = max(0, width - len(epochs))
    label = state.label if len(state.label) <= room else f"{state.label[: max(0, room - 2)]}.."
    return f"{label}{epochs}"
