"""Find a learning rate: a short training with ever higher rates draws the curve of the loss.

python -m imdb_lightning.tune lr model=gru

The overrides are those of `python -m imdb_lightning`. It changes nothing: no run is created, and
the rate that it names is yours to set. After Smith 2017, "Cyclical learning rates for training
neural networks", as Lightning's learning rate finder does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from .. import cli


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, with 1 if no rate can be named, or with 2 if the command line is wrong."""
    options = (p := parser()).parse_args(argv)
    from ..config.overrides import check_command_line
    from ..plan import CommandLineError, check_jobs

    line = check_command_line(options.overrides)
    if line.errors:
        p.fail(*line.errors)
    try:
        warnings = check_jobs(line)
    except CommandLineError as error:
        p.fail(*error.args)
    p.report(*warnings)
    if warnings:  # there are no reviews: the synthetic corpus
        line = check_command_line([*options.overrides, "data.name=synthetic"])
    figure = options.output or Path(
        f"outputs/tune/{datetime.now():%Y-%m-%d_%H-%M-%S}_{line.jobs[0].model.name}.png"
    )
    if figure.exists():
        p.fail(f"{figure}: already exists; name another file")
    from ..data.sources import DataError
    from .learning_rate import draw, find

    try:
        found = find(line.jobs[0], options.steps, options.lowest, options.highest)
    except DataError as error:
        p.fail(str(error))
    draw(found, line.jobs[0].model.name, figure)
    print(figure)
    if found.suggested is None:
        p.fail("the loss falls nowhere: no rate to name", code=cli.FAILED)
    print(f"the loss falls fastest at optim.lr={found.suggested:.1e} ({len(found.rates)} steps)")


def parser() -> cli.Parser:
    p = cli.Parser("tune", __doc__)
    p.add_argument("what", choices=["lr"], help="what to find: lr, a learning rate")
    p.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="of the configuration")
    p.add_argument("--steps", type=cli.positive, default=300, help="training steps; default: 300")
    p.add_argument("--lowest", type=rate, default=1e-5, help="the first rate; default: 1e-5")
    p.add_argument("--highest", type=rate, default=1.0, help="the last rate; default: 1")
    p.add_argument(
        "--output", metavar="PNG", type=Path, help="the figure; default: in outputs/tune"
    )
    return p


def rate(text: str) -> float:
    """A learning rate, for argparse."""
    import argparse

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text[:40]}: must be a number > 0 and < 1000000")
    return value


if __name__ == "__main__":
    main()
