"""Report on runs: report.md and report.html, of the runs in these directories and below."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from . import page
from .runs import collect


def main() -> None:
    """Exits with 0 where there is a report, and 2 where there is nothing to report."""
    arguments = parser().parse_args()
    missing = [folder for folder in arguments.folders if not folder.is_dir()]
    if missing:
        leave(*(f"{folder}: no such directory" for folder in missing))
    collection = collect(arguments.folders)
    for line in collection.problems:
        print(f"imdb_lightning.report: {line}", file=sys.stderr)
    if not collection.configurations:
        for run in collection.unfinished:
            print(f"imdb_lightning.report: {run.path}: {run.why}", file=sys.stderr)
        leave("no finished run to report")
    try:
        output = arguments.output or arguments.folders[0]
        words = ["python", "-m", "imdb_lightning.report", *map(str, arguments.folders)]
        written = page.write(collection, output, shlex.join(words))
    except (page.NotOurs, OSError) as error:
        leave(str(error))
    unfinished = len(collection.unfinished)
    print(f"{len(collection.results)} runs, {unfinished} unfinished")
    print(*written, sep="\n")


def leave(*lines: str) -> NoReturn:
    for line in lines:
        print(f"imdb_lightning.report: {line}", file=sys.stderr)
    sys.exit(2)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imdb_lightning.report", description=__doc__)
    parser.add_argument(
        "folders",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="a run directory, a sweep's, or one that holds some",
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="where the report goes; default: the first DIR"
    )
    return parser


if __name__ == "__main__":
    main()
