"""Predict reviews: label and probability of each, one line a review.

python -m imdb_lightning.predict RUN "A wonderful film." "A dull one."
python -m imdb_lightning.predict RUN - < reviews.txt
python -m imdb_lightning.predict RUN --file reviews.csv --json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import cli
from .data.files import SUFFIXES, InputError, lines, read_texts


if TYPE_CHECKING:
    from .inference import Predictor


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, or 2 if the model or the reviews cannot be read."""
    arguments = (p := parser()).parse_args(argv)
    if bool(arguments.texts) == bool(arguments.file):
        p.fail("give reviews, or - to read one a line from standard input, or --file")
    from .inference import LoadError, load  # late: torch takes seconds to import
    from .runtime import contention, process

    process.configure()
    try:
        with contention.yield_to_others():
            predict(load(arguments.run, arguments.trust), arguments)
    except (LoadError, InputError) as error:
        p.fail(str(error))


def predict(model: Predictor, arguments: argparse.Namespace) -> None:
    """Print the predictions as they are made."""
    from .inference import WINDOW

    from_stdin = arguments.texts == ["-"]
    if arguments.file:
        texts = read_texts(Path(arguments.file))
    elif from_stdin:
        texts = lines(sys.stdin.buffer, "standard input")
    else:
        texts = iter(arguments.texts)
    bar = None
    if sys.stderr.isatty() and not sys.stdout.isatty() and (arguments.file or from_stdin):
        from tqdm import tqdm

        bar = tqdm(unit=" reviews", file=sys.stderr)
    interactive = from_stdin and sys.stdin.isatty()
    window = 1 if interactive else WINDOW * arguments.batch_size
    for number, prediction in enumerate(model.stream(texts, arguments.batch_size, window)):
        if arguments.json:
            row = {"index": number, **prediction._asdict()}
            row["logit"] = round(prediction.logit, 6)
            row["probability"] = round(prediction.probability, 6)
            print(json.dumps(row), flush=interactive)
        else:
            print(f"{prediction.label}\t{prediction.probability:.4f}", flush=interactive)
        if bar is not None:
            bar.update()
    sys.stdout.flush()


def parser() -> cli.Parser:
    p = cli.Parser("predict", __doc__)
    p.add_model()
    p.add_argument("texts", metavar="TEXT", nargs="*", help="reviews; - reads standard input")
    p.add_argument("--file", help=f"reviews: {', '.join(SUFFIXES)}")
    p.add_argument("--json", action="store_true", help="one JSON object a line")
    p.add_batch_size()
    return p


if __name__ == "__main__":
    main()
