"""Explain how a run reads a review: token by token, as text or as one page.

python -m imdb_lightning.explain RUN "Dull at first, wonderful in the end."
python -m imdb_lightning.explain RUN "Dull at first, wonderful in the end." --html reading.html
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn


def main() -> None:
    """Exits with 0, or 2 where the model cannot be read or the page cannot be written."""
    arguments = parser().parse_args()
    target = Path(arguments.html) if arguments.html else None
    if target is not None and target.exists():
        leave(f"{target}: it is there already; give another --html")
    from .. import durable
    from ..trained import LoadError, load
    from .page import html, lines
    from .reading import read

    try:
        model = load(arguments.run, arguments.trust)
    except LoadError as error:
        leave(str(error))
    reading = read(model, arguments.text)
    if target is None:
        print(*lines(model, reading), sep="\n")
        return
    try:
        durable.write(target, html(model, arguments.text, reading).encode())
    except OSError as error:
        leave(f"{target}: {error.strerror}")
    print(target)


def leave(line: str) -> NoReturn:
    print(f"imdb_lightning.explain: {line}", file=sys.stderr)
    sys.exit(2)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imdb_lightning.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run, one of its checkpoints, or an export")
    parser.add_argument("text", metavar="TEXT", help="a review")
    parser.add_argument("--html", metavar="FILE", help="write one page instead of text")
    parser.add_argument("--trust", action="store_true", help="run a cell that is not ours")
    return parser


if __name__ == "__main__":
    main()
