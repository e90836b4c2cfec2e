"""Where Hydra looks for launchers: a namespace package that all its plugins share."""

from imdb_lightning.runs import launcher, slurm


class LocalPool(launcher.LocalPool):
    """hydra/launcher=local_pool."""


class Slurm(slurm.Slurm):
    """hydra/launcher=slurm."""
