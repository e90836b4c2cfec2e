"""Rules: what the value of a key may be, and the words for it in a message."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from .text import did_you_mean


class Rule(NamedTuple):
    """A predicate, and what it accepts: "must be ..."."""

    accepts: Callable[[Any], bool]
    description: str

    def hint(self, value: Any) -> str:
        """ "; did you mean ...?" if the rule lists its choices and one of them is close."""
        prefix = "one of "
        if not (isinstance(value, str) and self.description.startswith(prefix)):
            return ""
        return did_you_mean(value, self.description.removeprefix(prefix).split(", "))


def integer(least: int, most: float = math.inf) -> Rule:
    limit = f" and <= {most}" if most < math.inf else ""
    return Rule(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most,
        f"an integer >= {least}{limit}",
    )


def number(least: float, below: float = math.inf, *, above: bool = False) -> Rule:
    """`above` excludes `least` itself; `below` is always excluded."""

    def accepts(v: Any) -> bool:
        is_number = isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
        return is_number and (v > least if above else v >= least) and v < below

    limit = f" and < {below:g}" if below < math.inf else ""
    return Rule(accepts, f"a number {'>' if above else '>='} {least:g}{limit}")


def fraction() -> Rule:
    """Above 0 and at most 1."""
    return Rule(
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 < v <= 1,
        "a number > 0 and <= 1",
    )


def share_of(what: str) -> Rule:
    """A count, or a fraction. 1 is one and 1.0 is all."""
    return Rule(
        lambda v: (
            not isinstance(v, bool)
            and ((isinstance(v, int) and v >= 1) or (isinstance(v, float) and 0 < v <= 1))
        ),
        f"an integer >= 1, of {what}, or a fraction > 0.0 and <= 1.0",
    )


def one_of(*names: Any) -> Rule:
    shown = {None: "null", True: "true", False: "false"}
    texts = ", ".join(name if isinstance(name, str) else shown[name] for name in names)
    return Rule(
        lambda v: any(v is name or (v == name and type(v) is type(name)) for name in names),
        f"one of {texts}",
    )


def or_null(rule: Rule) -> Rule:
    return Rule(lambda v: v is None or rule.accepts(v), f"{rule.description}, or null")


STR = Rule(lambda v: isinstance(v, str) and bool(v.strip()), "a string")
STRS = Rule(
    lambda v: STR.accepts(v) or (isinstance(v, list) and len(v) > 0 and all(map(STR.accepts, v))),
    "a string or a list of strings",
)
DURATION = Rule(
    lambda v: isinstance(v, str) and re.fullmatch(r"\d{1,4}:\d\d:\d\d:\d\d", v) is not None,
    "a time as days:hours:minutes:seconds, such as 00:01:30:00",
)
FRACTIONS = Rule(
    lambda v: isinstance(v, list) and len(v) == 2 and all(map(number(0, 1).accepts, v)),
    "a list of two numbers >= 0 and < 1, such as [0.9,0.999]",
)
BOOL = one_of(True, False)
DEVICES = Rule(
    lambda v: (
        (isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 1024)
        or (isinstance(v, list) and len({*v}) == len(v) > 0 and all(map(integer(0).accepts, v)))
    ),
    "an integer >= 1 and <= 1024, or a list of different device numbers such as [0,1]",
)
