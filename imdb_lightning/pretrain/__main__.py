"""Pretrain the embedding on reviews without their labels.

python -m imdb_lightning.pretrain pretrain=vectors hydra.run.dir=outputs/pretrained/vectors
python -m imdb_lightning pretrained=outputs/pretrained/vectors

The command line is that of `python -m imdb_lightning`, with the group `pretrain`. The run directory
is what `pretrained` names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..__main__ import main as run


def main(argv: Sequence[str] | None = None) -> None:
    """Exits as `python -m imdb_lightning` does."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = ("pretrain=", "experiment=", "resume=")
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
    elif "--hydra-help" not in arguments and not any(text.startswith(chosen) for text in arguments):
        arguments.append("pretrain=vectors")
    run(arguments, pretraining=True)


if __name__ == "__main__":
    main()
