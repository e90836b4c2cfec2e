"""The page of the recipes: recipes.md, from the runs and baselines in these directories.

python -m imdb_lightning.recipes outputs/sweeps/recipes outputs/baselines --output docs

A run belongs to a recipe if its configuration is that of experiment=recipes/NAME, whatever its
seed, and wherever the reviews and the pretraining are. --archive copies the runs, without weights,
to a directory from which the page can be made again:

python -m imdb_lightning.recipes docs/recipes_runs --output docs
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from .. import cli


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0 if there is a page, and 2 if there is nothing to show."""
    arguments = (p := parser()).parse_args(argv)
    from ..data.sources import DataError
    from ..report.templates import ForeignFileError
    from . import page
    from .archive import archive
    from .rows import collect

    missing = [folder for folder in arguments.folders if not folder.is_dir()]
    if missing:
        p.fail(*(f"{folder}: no such directory" for folder in missing))
    found = collect(arguments.folders)
    p.report(*found.problems)
    if not found.steps:
        p.fail("no finished run of a recipe")
    words = ["python", "-m", "imdb_lightning.recipes", *map(str, arguments.folders)]
    try:
        path = arguments.data or os.environ.get("IMDB_DATA")
        written = page.write(found, path, arguments.output, shlex.join(words))
        if arguments.archive is not None:
            written += archive(found, arguments.archive)
    except (DataError, ForeignFileError, OSError) as error:
        p.fail(str(error))
    print(*written, sep="\n")


def parser() -> cli.Parser:
    p = cli.Parser("recipes", __doc__)
    p.add_argument("folders", metavar="DIR", nargs="+", type=Path)
    p.add_data()
    p.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("."), help="where to write the page"
    )
    p.add_argument(
        "--archive", metavar="DIR", type=Path, help="where to copy the runs, without weights"
    )
    return p


if __name__ == "__main__":
    main()
