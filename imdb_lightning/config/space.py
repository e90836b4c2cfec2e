"""The search space: for each key that is searched, the values that it may have.

Written as Hydra's sweeps: a list 32,64,128 or choice(...), interval(0,0.5), int(interval(16,128)),
tag(log,interval(1e-4,1e-2)), range(16,129,16).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from .schema import KEYS


DIGITS = 4  # significant ones of a proposed number: a name that can be read and typed


class Dimension(NamedTuple):
    """One key of the space: a list of choices, or the numbers from `low` to `high`."""

    key: str  # with the pluses that Hydra needs
    choices: tuple[str, ...] = ()  # as on the command line
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    integer: bool = False

    @property
    def name(self) -> str:
        return self.key.lstrip("+")

    @property
    def extremes(self) -> list[str]:
        """Overrides to check: all choices, or both ends."""
        values = self.choices or (self.text(self.low), self.text(self.high))
        return [f"{self.key}={value}" for value in values]

    def text(self, value: float) -> str:
        """A number as it is written on the command line, within the ends."""
        if self.integer:
            return str(round(value))
        if self.step is None:
            value = float(f"{value:.{DIGITS}g}")
        else:
            value = float(f"{value:.10g}")  # 0.30000000000000004
        return repr(min(max(value, self.low), self.high))


def last_of_each(overrides: Iterable[Override]) -> list[Override]:
    """Of a key that is given several times, the last override: as Hydra does it."""
    return [*{override.get_key_element().lstrip("+"): override for override in overrides}.values()]


def dimension(override: Override) -> Dimension | None:
    """The dimension that an override sweeps; None for a single value.

    Raises ValueError if it is no space.
    """
    if not override.is_sweep_override():
        return None
    key, sweep = override.get_key_element(), override.value()
    if isinstance(sweep, IntervalSweep):
        unknown = sweep.tags - {"log"}
        if unknown:
            raise ValueError(
                f"no tag {min(unknown)}; tag(log,interval(...)) searches on a log scale"
            )
        low, high = sweep.start, sweep.end
        if low is None or high is None or not low < high:
            raise ValueError("must go from a lower number to a higher one")
        log = "log" in sweep.tags
        if log and low <= 0:
            raise ValueError("a log scale starts above 0")
        integer = isinstance(low, int) or _wants_integers(key, low, high)
        if integer:
            low, high = round(low), round(high)
        found = Dimension(key, (), low, high, None, log, integer)
        if (
            not integer
            and len({found.text(low + (high - low) * part / 4) for part in (1, 2, 3)}) < 3
        ):
            raise ValueError(f"is too narrow for numbers of {DIGITS} digits")
        return found
    values = tuple(override.sweep_string_iterator())
    twice = {value for value in values if values.count(value) > 1}
    if twice:
        raise ValueError(f"{min(twice)} is there twice")
    if isinstance(sweep, RangeSweep) and len(values) > 1:
        low, high = sorted((float(values[0]), float(values[-1])))
        step = abs(sweep.step)
        if all(float(number).is_integer() for number in (low, high, step)):
            return Dimension(key, (), int(low), int(high), int(step), False, True)
        return Dimension(key, (), low, high, step)
    return Dimension(key, values) if len(values) > 1 else None


def _wants_integers(key: str, low: float, high: float) -> bool:
    """True for a key such as model.hidden_size, between ends that are integers."""
    known = KEYS.get(key.lstrip("+"))
    if known is None or not (float(low).is_integer() and float(high).is_integer()):
        return False
    return known.rule.accepts(int(high)) and not known.rule.accepts(high - 0.5)
