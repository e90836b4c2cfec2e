"""Training from Python, a notebook for example: fit, and what it returns."""

from __future__ import annotations

import html
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config.overrides import check_command_line
from .plan import SYNTHETIC, CommandLineError, check_jobs
from .runs import resume


if TYPE_CHECKING:
    import pyarrow
    from matplotlib.figure import Figure

    from .inference import Predictor


class FittedRun:
    """A finished run, of `fit` or of the command line, in its directory `path`."""

    def __init__(self, path: str | Path, trust: bool = False) -> None:
        """`trust` allows `model` to run the code of a cell from elsewhere.

        Raises ValueError if there is no finished run in `path`.
        """
        from .runs.run import Run

        self.path = Path(path)
        self.trust = trust
        if Run(self.path).status != "done":
            raise ValueError(f"{path}: no finished run")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json: accuracies are fractions 0..1, losses nats per review."""
        from .runs.run import Run

        return Run(self.path).metrics

    @cached_property
    def predictions(self) -> pyarrow.Table:
        """A row for each review of val and test: split, index, label, logit. `.to_pandas()` makes a
        DataFrame of it."""
        from .runs import predictions
        from .runs.run import Run

        return predictions.read_table(Run(self.path).predictions)

    @property
    def curves(self) -> Figure:
        """Loss and accuracy by epoch."""
        from .loggers.figures import learning_curves

        return learning_curves(self.metrics)

    @cached_property
    def model(self) -> Predictor:
        """The model that has been tested."""
        from .inference import load

        return load(self.path, self.trust)

    def __repr__(self) -> str:
        m = self.metrics
        epochs = f"{len(m['epochs'])} epoch{'s' * (len(m['epochs']) > 1)}"
        return (
            f"<FittedRun {m['model']} on {m['dataset']}, seed {m['seed']}: test accuracy "
            f"{m['test/acc']:.4f}, best val accuracy {m['val/acc_best']:.4f}, {epochs} in "
            f"{m['seconds']:.0f} s, {str(self.path)!r}>"
        )

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<code>{html.escape(repr(self))}</code>"


def fit(*overrides: str, directory: str | Path | None = None, quiet: bool = False) -> FittedRun:
    """Train and test one run, as `python -m imdb_lightning *overrides` does.

    It is kept in `directory`, by default in outputs/. `quiet`: no progress bar, in a terminal or a
    notebook, and no lines. Raises CommandLineError, a ValueError, for wrong overrides, and what
    `train.train` raises.
    """
    given = [resume.quote_path_override(text) for text in overrides]
    if directory is not None:
        given.append(resume.quote_path_override(f"hydra.run.dir={directory}"))
    line = check_command_line(given)
    if line.errors:
        raise CommandLineError(*line.errors)
    if line.jobs[0].resume is not None or line.jobs[0].trainer.get("fast_dev_run"):
        raise CommandLineError("fit starts a run: resume and fast_dev_run are for the command line")
    for text in check_jobs(line):
        warnings.warn(text, stacklevel=2)
        line = check_command_line([*given, SYNTHETIC])
    from omegaconf import open_dict

    from .runs import storage

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm, without ipywidgets
        from .train import train

    cfg = line.jobs[0]
    in_notebook = "ipykernel" in sys.modules
    if in_notebook and not quiet and cfg.trainer.get("enable_progress_bar") is None:
        with open_dict(cfg):
            cfg.trainer.enable_progress_bar = True
    path = Path(line.directory)
    own = [text for text in line.overrides if not text.startswith("hydra.")]
    (path / ".hydra").mkdir(parents=True, exist_ok=True)  # first: a run that is killed is resumed
    storage.atomic_write(path / ".hydra" / "overrides.yaml", json.dumps(own).encode())
    with _lines(quiet):
        train(cfg, path)
    return FittedRun(path, trust=True)  # its code has just been run


@contextmanager
def _lines(quiet: bool) -> Iterator[None]:
    """The lines of a run on standard output, unless the caller has configured logging."""
    logger = logging.getLogger("imdb_lightning")
    level, handler, propagate = logger.level, None, logger.propagate
    if quiet:
        logger.setLevel(logging.ERROR)
    elif not (logging.getLogger().handlers or logger.handlers):
        logger.setLevel(logging.INFO)
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False  # other packages give the root logger a handler meanwhile
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        if handler is not None:
            logger.removeHandler(handler)
