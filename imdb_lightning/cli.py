"""The command line of every command: one parser, one way to fail, exit codes.

Exit codes: 0 done; 1 the run failed; 2 the command line, the configuration or an input is wrong;
130 and 143 interrupted and terminated.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import NoReturn

from .config.text import printable


FAILED, USAGE, INTERRUPTED = 1, 2, 130
PACKAGE = "imdb_lightning"
LONGEST = 2_000  # characters of a line


def report(*lines: str, command: str = "") -> None:
    """Lines on standard error, each with the command's name before it."""
    for line in lines:
        text = printable(f"{PACKAGE}{'.' if command else ''}{command}: {line}")
        print(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...", file=sys.stderr)


def fail(*lines: str, code: int = USAGE, command: str = "") -> NoReturn:
    """Report the lines and exit."""
    report(*lines, command=command)
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """The parser of `python -m imdb_lightning.COMMAND`."""

    def __init__(self, command: str, doc: str | None) -> None:
        is_script = Path(sys.argv[0]).stem == "imdb-lightning"
        super().__init__(
            prog=f"imdb-lightning {command}" if is_script else f"python -m {PACKAGE}.{command}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.command = command

    def fail(self, *lines: str, code: int = USAGE) -> NoReturn:
        fail(*lines, code=code, command=self.command)

    def report(self, *lines: str) -> None:
        report(*lines, command=self.command)

    def error(self, message: str) -> NoReturn:
        self.fail(f"{message}; --help lists the arguments")

    def add_model(self) -> None:
        """RUN, and consent to run the code of a cell from elsewhere."""
        self.add_argument(
            "run",
            metavar="RUN",
            help="a run, one of its checkpoints, or a folder of export --format safetensors",
        )
        self.add_argument(
            "--trust",
            action="store_true",
            help="run the code of a cell that is not part of imdb_lightning",
        )

    def add_batch_size(self) -> None:
        self.add_argument(
            "--batch-size", type=positive, default=256, help="reviews at a time; default: 256"
        )

    def add_data(self) -> None:
        self.add_argument("--data", metavar="PATH", help="the dataset; default: IMDB_DATA")


def positive(text: str) -> int:
    """An integer from 1 to 999,999,999, for argparse."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]}: must be an integer from 1 to 999999999")
    return int(text)


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[..., None]:
    """Decorates a main function: exit quietly on Ctrl-C and if a pipe's reader has gone."""

    @wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> None:
        for stream in (sys.stdout, sys.stderr):  # such as a terminal without UTF-8
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            main(argv)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:  # such as a name that is too long
            fail(f"{str(error.filename)[:100]}: {error.strerror}")

    return wrapped
