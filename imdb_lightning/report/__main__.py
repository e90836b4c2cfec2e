"""Report on runs: report.md and report.html, of the runs in these directories and below."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from .. import cli


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0 if there is a report, and 2 if there is nothing to report."""
    arguments = (p := parser()).parse_args(argv)
    from . import page
    from .runs import collect
    from .templates import ForeignFileError

    missing = [folder for folder in arguments.folders if not folder.is_dir()]
    if missing:
        p.fail(*(f"{folder}: no such directory" for folder in missing))
    collection = collect(arguments.folders)
    p.report(*collection.problems)
    if not collection.configurations:
        p.report(*(f"{run.path}: {run.why}" for run in collection.unfinished))
        p.fail("no finished run to report")
    try:
        output = arguments.output or arguments.folders[0]
        words = ["python", "-m", "imdb_lightning.report", *map(str, arguments.folders)]
        written = page.write(collection, output, shlex.join(words))
    except (ForeignFileError, OSError) as error:
        p.fail(str(error))
    print(f"{len(collection.results)} runs, {len(collection.unfinished)} unfinished")
    print(*written, sep="\n")


def parser() -> cli.Parser:
    p = cli.Parser("report", __doc__)
    p.add_argument(
        "folders",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="a run, a grid, or a directory that contains some",
    )
    p.add_argument(
        "--output", metavar="DIR", type=Path, help="where to write the report; default: first DIR"
    )
    return p


if __name__ == "__main__":
    main()
