"""Text for the command line: quoting, suggestions, errors in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def quote(text: str) -> str:
    """A string as a value of Hydra's override grammar."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * trailing}'"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?", or nothing if no known word is close."""
    lower = {name.lower(): name for name in known}
    last = word.lower().split(".")[-1]
    # The right name in the wrong place, such as hidden_size for model.hidden_size.
    close = [name for name in lower if name.split(".")[-1] == last]
    # A long common prefix would make any two keys of a group alike: compare what follows it.
    close += [
        name
        for name in difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.6)
        if difflib.SequenceMatcher(None, last, name.split(".")[-1]).ratio() > 0.7
    ]
    return f"; did you mean {lower[close[0]]}?" if close else ""


def printable(text: str) -> str:
    """The text with \\x1b and its like for characters that control a terminal or hide text."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def markdown(text: str) -> str:
    """The printable text without HTML and links, which Markdown would render."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", printable(text)).replace("](", "]\\(")


def shorten(text: object) -> str:
    """At most 300 printable characters in one line."""
    return printable(" ".join(str(text)[:10_000].split())[:300])


def one_line(error: Exception) -> str:
    """The message of an exception in one line; of Hydra's, without its list of the search path."""
    text = str(error) or str(error.__cause__)
    text = text.split("\n    full_key:")[0].split("\nConfig search path:")[0]
    return shorten(text)
