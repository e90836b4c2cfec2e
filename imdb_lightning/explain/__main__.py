"""Explain how a model reads a review: token by token, as text, as a page, or as a figure.

python -m imdb_lightning.explain RUN "Dull at first, wonderful in the end."
python -m imdb_lightning.explain RUN "Dull at first, wonderful in the end." --html explanation.html
python -m imdb_lightning.explain RUN "Dull at first, wonderful in the end." --figure explanation.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..config.text import printable


SUFFIXES = (".png", ".svg", ".pdf")


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, or 2 if the model cannot be read or the file cannot be written."""
    arguments = (p := parser()).parse_args(argv)
    targets = [Path(name) for name in (arguments.html, arguments.figure) if name]
    for target in targets:
        if target.exists():
            p.fail(f"{target}: already exists; give another name")
    if arguments.figure and Path(arguments.figure).suffix not in SUFFIXES:
        p.fail(f"{arguments.figure}: must be one of {', '.join(SUFFIXES)}")
    from ..inference import LoadError, load
    from ..runs import storage
    from .explanation import explain
    from .figure import image
    from .page import html, lines

    try:
        model = load(arguments.run, arguments.trust)
    except LoadError as error:
        p.fail(str(error))
    explanation = explain(model, arguments.text)
    try:
        if arguments.html:
            page = html(model, arguments.text, explanation)
            storage.atomic_write(Path(arguments.html), page.encode())
        if arguments.figure:
            target = Path(arguments.figure)
            storage.atomic_write(target, image(model, explanation, target.suffix[1:]))
    except OSError as error:
        p.fail(f"{error.filename}: {error.strerror}")
    print(*(targets or map(printable, lines(model, explanation))), sep="\n")


def parser() -> cli.Parser:
    p = cli.Parser("explain", __doc__)
    p.add_model()
    p.add_argument("text", metavar="TEXT", help="a review")
    p.add_argument("--html", metavar="FILE", help="write one page")
    p.add_argument("--figure", metavar="FILE", help=f"write one figure: {', '.join(SUFFIXES)}")
    return p


if __name__ == "__main__":
    main()
