"""Predict reviews: label and probability for each, one line a review.

python -m imdb_lightning.predict RUN "A wonderful film." "A dull one."
python -m imdb_lightning.predict RUN - < reviews.txt
python -m imdb_lightning.predict RUN --file reviews.csv --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .reviews import SUFFIXES, InputError, lines, read


if TYPE_CHECKING:
    from .trained import Trained


def main() -> None:
    """Exits with 0, or 2 where the model or the reviews cannot be read."""
    arguments = parser().parse_args()
    if bool(arguments.texts) == bool(arguments.file):
        leave("give reviews, or - for one a line on standard input, or --file")
    from . import process  # late: torch takes seconds
    from .trained import LoadError, load

    process.prepare()

    try:
        model = load(arguments.run, arguments.trust)
        predict(model, arguments)
    except (LoadError, InputError) as error:
        leave(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def predict(model: Trained, arguments: argparse.Namespace) -> None:
    if arguments.file:
        texts = read(Path(arguments.file))
    elif arguments.texts == ["-"]:
        texts = lines(sys.stdin.buffer)
    else:
        texts = iter(arguments.texts)
    bar = None
    if (
        sys.stderr.isatty()
        and not sys.stdout.isatty()
        and (arguments.file or arguments.texts == ["-"])
    ):
        from tqdm import tqdm

        bar = tqdm(unit=" reviews", file=sys.stderr)
    one_by_one = arguments.texts == ["-"] and sys.stdin.isatty()
    from .trained import WINDOW

    window = 1 if one_by_one else WINDOW * arguments.batch_size
    for number, prediction in enumerate(model.stream(texts, arguments.batch_size, window)):
        if arguments.json:
            row = {"index": number, **prediction._asdict()}
            row["logit"] = round(prediction.logit, 6)
            row["probability"] = round(prediction.probability, 6)
            print(json.dumps(row), flush=one_by_one)
        else:
            print(f"{prediction.label}\t{prediction.probability:.4f}", flush=one_by_one)
        if bar is not None:
            bar.update()
    sys.stdout.flush()


def leave(line: str) -> NoReturn:
    print(f"imdb_lightning.predict: {line}", file=sys.stderr)
    sys.exit(2)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of reviews, 1 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imdb_lightning.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run, one of its checkpoints, or an export")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="reviews; - reads standard input")
    parser.add_argument("--file", help=f"reviews: {', '.join(SUFFIXES)}")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--batch-size", type=positive, default=256, help="reviews at a time (256)")
    parser.add_argument("--trust", action="store_true", help="run a cell that is not ours")
    return parser


if __name__ == "__main__":
    main()
