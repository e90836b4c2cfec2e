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
    candidates = list(known)
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if not close:  # the right name in the wrong place, such as hidden_size for model.hidden_size
        close = [c for c in candidates if c.split(".")[-1] == word.split(".")[-1]][:1]
    return f"; did you mean {close[0]}?" if close else ""


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
