"""Pretrain the embedding on reviews without their labels.

python -m imdb_lightning.pretrain pretrain=vectors hydra.run.dir=outputs/pretrained/vectors
python -m imdb_lightning pretrained=outputs/pretrained/vectors

A command line like that of `python -m imdb_lightning`, with the group `pretrain` chosen. The run
directory that it leaves is what `pretrained` names.
"""

from __future__ import annotations

import sys

from ..__main__ import main as run


def main() -> None:
    """Exits as `python -m imdb_lightning` does."""
    chosen = ("pretrain=", "experiment=", "resume=")
    asked = {"--help", "-h", "--hydra-help"} & set(sys.argv)
    if not asked and not any(argument.startswith(chosen) for argument in sys.argv[1:]):
        sys.argv.append("pretrain=vectors")
    run(pretraining=True)


if __name__ == "__main__":
    main()
