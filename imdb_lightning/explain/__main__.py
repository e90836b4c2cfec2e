"""Explain how a model reads a review: token by token, as text or as one page.

python -m imdb_lightning.explain RUN "Dull at first, wonderful in the end."
python -m imdb_lightning.explain RUN "Dull at first, wonderful in the end." --html explanation.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import cli


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, or 2 if the model cannot be read or the page cannot be written."""
    arguments = (p := parser()).parse_args(argv)
    target = Path(arguments.html) if arguments.html else None
    if target is not None and target.exists():
        p.fail(f"{target}: already exists; give another --html")
    from ..inference import LoadError, load
    from ..runs import storage
    from .explanation import explain
    from .page import html, lines

    try:
        model = load(arguments.run, arguments.trust)
    except LoadError as error:
        p.fail(str(error))
    explanation = explain(model, arguments.text)
    if target is None:
        print(*lines(model, explanation), sep="\n")
        return
    try:
        storage.atomic_write(target, html(model, arguments.text, explanation).encode())
    except OSError as error:
        p.fail(f"{target}: {error.strerror}")
    print(target)


def parser() -> cli.Parser:
    p = cli.Parser("explain", __doc__)
    p.add_model()
    p.add_argument("text", metavar="TEXT", help="a review")
    p.add_argument("--html", metavar="FILE", help="write one page instead of text")
    return p


if __name__ == "__main__":
    main()
