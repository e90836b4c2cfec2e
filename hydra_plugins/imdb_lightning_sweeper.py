"""Where Hydra looks for sweepers: a namespace package that all its plugins share."""

from imdb_lightning.search import sweeper


class OptunaSweeper(sweeper.OptunaSweeper):
    """hydra/sweeper=optuna."""
