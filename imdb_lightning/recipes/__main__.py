"""The page of the recipes: recipes.md, of the runs and baselines in these directories and below.

python -m imdb_lightning.recipes outputs/sweeps/recipes outputs/baselines --output docs

A run counts for a recipe where its configuration is that of experiment=recipes/NAME, whatever its
seed, and wherever the reviews and the pretraining are. With --keep, what the page is made of is
copied to a directory from which it can be made again:

python -m imdb_lightning.recipes docs/recipes_runs --output docs
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn


def main() -> None:
    """Exits with 0 where there is a page, and 2 where there is nothing to show."""
    arguments = parser().parse_args()
    from ..data.sources import DataError
    from . import page
    from .keep import keep
    from .rows import collect

    missing = [folder for folder in arguments.folders if not folder.is_dir()]
    if missing:
        leave(*(f"{folder}: no such directory" for folder in missing))
    found = collect(arguments.folders)
    for line in found.problems:
        print(f"imdb_lightning.recipes: {line}", file=sys.stderr)
    if not found.rungs:
        leave("no finished run of a recipe")
    words = ["python", "-m", "imdb_lightning.recipes", *map(str, arguments.folders)]
    try:
        path = arguments.data or os.environ.get("IMDB_DATA")
        written = page.write(found, path, arguments.output, shlex.join(words))
        if arguments.keep is not None:
            written += keep(found, arguments.keep)
    except (DataError, page.NotOurs, OSError) as error:
        leave(str(error))
    print(*written, sep="\n")


def leave(*lines: str) -> NoReturn:
    for line in lines:
        print(f"imdb_lightning.recipes: {line}", file=sys.stderr)
    sys.exit(2)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imdb_lightning.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path)
    parser.add_argument("--data", metavar="PATH", help="the reviews; default: as for a run")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("."), help="where the page goes"
    )
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="where the runs go, without their weights"
    )
    return parser


if __name__ == "__main__":
    main()
