"""The page of a search: search.md with its plots, and search.html.

python -m imdb_lightning -m hydra/sweeper=optuna 'model.hidden_size=32,64' ...   searches
python -m imdb_lightning.search outputs/sweeps/search --output docs              writes the page

A search writes search.html into its own directory when it ends; this command writes it at any time.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .. import cli


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0 if there is a page, and 2 if the directory has no search."""
    options = (p := parser()).parse_args(argv)
    if find_spec("optuna") is None:
        p.fail("needs pip install 'imdb-lightning[optuna]'")
    from ..report.templates import ForeignFileError
    from . import page

    output = options.output or options.folder
    words = ["python", "-m", "imdb_lightning.search", str(options.folder)]
    if options.output:
        words += ["--output", str(output)]
    try:
        written = page.write(page.read(options.folder), output, shlex.join(words))
    except FileNotFoundError as error:
        p.fail(f"{error.filename}: no such file; DIR is the directory of a search")
    except (ForeignFileError, ValueError) as error:
        p.fail(str(error))
    print(*written, sep="\n")


def parser() -> cli.Parser:
    p = cli.Parser("search", __doc__)
    p.add_argument("folder", metavar="DIR", type=Path, help="the directory of a search")
    p.add_argument(
        "--output", metavar="DIR", type=Path, help="where to write the page; default: there too"
    )
    return p


if __name__ == "__main__":
    main()
