"""The command line: python -m imdb_lightning KEY=VALUE ... trains, then tests once."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from . import cli
from .config.identity import names_of_grid
from .config.overrides import CommandLine
from .config.paths import conf_dir
from .config.text import quote
from .plan import CommandLineError, NothingToDoError, Plan, make_plan
from .runtime import distributed, signals
from .runtime.version import __version__


PROBE_BYTES = 65_536  # bytes: less than any run writes
GRID_SIZE = "IMDB_LIGHTNING_RUNS"  # the number of runs, for the processes that a launcher starts

log = logging.getLogger("imdb_lightning")


def main(argv: Sequence[str] | None = None, pretraining: bool = False) -> None:
    """`pretraining` refuses the runs of classifiers.

    Exits with 0 done, 1 the run failed, 2 the command line is wrong, 130 and 143 interrupted.
    """
    signals.install_handlers()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own cell, also under the console script
    arguments = sys.argv[1:] if argv is None else argv
    if "--version" in arguments:
        print(f"imdb_lightning {__version__}")
        return
    if distributed.is_launched():
        run_together(arguments, pretraining)
        return
    plan = plan_or_exit(arguments, pretraining)
    if plan.nodes > 1:
        cli.fail(
            f"trainer.num_nodes={plan.nodes}: start it on each machine, by torchrun or srun; "
            "docs/scale.md shows how"
        )
    if plan.devices > 1:
        sys.exit(distributed.spawn(plan.devices, arguments))
    run_plan(plan)


def run_together(arguments: Sequence[str], pretraining: bool) -> None:
    """In one of the processes of a run: the first one plans, the others do as it does."""
    from .runtime.distributed import PeerError

    try:
        distributed.connect()
        if distributed.rank() > 0:
            shared: list[str] = distributed.from_first([])
            if not shared:
                sys.exit(0)
            quiet = "hydra.job_logging.root.handlers=[console] hydra.job_logging.root.level=ERROR"
            run_jobs([*shared, "hydra.output_subdir=null", *quiet.split()])
            return
        try:
            plan = plan_or_exit(arguments, pretraining)
            if plan.devices * plan.nodes != distributed.world_size():
                cli.fail(
                    f"{distributed.world_size()} processes were started, but trainer.devices * "
                    f"trainer.num_nodes is {plan.devices * plan.nodes}"
                )
        except SystemExit:
            distributed.from_first([])
            raise
        run_plan(plan)
    except PeerError as error:
        cli.fail(str(error), code=cli.FAILED)


def plan_or_exit(arguments: Sequence[str], pretraining: bool) -> Plan:
    """The plan of a command line. Exits with 2 if it is wrong, with 0 if there is nothing to do."""
    try:
        plan = make_plan(arguments, pretraining)
    except CommandLineError as error:
        cli.fail(*error.args)
    except NothingToDoError as done:
        print(done)
        sys.exit(0)
    if plan.wants_help:
        from .config.reference import help_text

        print(help_text())
        sys.exit(0)
    return plan


def run_plan(plan: Plan) -> None:
    """Run what is planned."""
    cli.report(*plan.warnings)
    print(*plan.notes, sep="\n", end="\n" if plan.notes else "", flush=True)
    if plan.grid is not None and plan.grid.space:
        run_search(plan.grid, plan.arguments)
    if plan.grid is not None:
        run_grid(plan.grid, plan.arguments)
    if plan.keeps_nothing:
        with tempfile.TemporaryDirectory(prefix="imdb_lightning-") as folder:
            here = [f"hydra.run.dir={quote(folder)}", "hydra.output_subdir=null"]
            run_jobs(distributed.from_first([*plan.arguments, *here]))
        print("fast_dev_run: train, val and test work; nothing was kept")
        return
    if plan.directory is not None:
        create_directory(plan.directory)
    run_jobs(distributed.from_first(plan.arguments))


def create_directory(directory: Path) -> None:
    """Create the run's directory. Exits with 2 if nothing can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(PROBE_BYTES))
    except OSError as error:
        cli.fail(f"{directory}: {error.strerror}; a run needs a directory that it can write to")


def run_grid(line: CommandLine, arguments: Sequence[str]) -> NoReturn:
    """Run the jobs that an earlier attempt has not finished, and list those that fail.

    Exits with 0 if all of them are done, else with 1.
    """
    from .runs.run import RunExistsError, RunLockedError
    from .runs.slurm import SlurmError, active_runs
    from .runs.sweep import Sweep

    jobs = dict(zip(line.names, line.jobs, strict=True))
    try:
        active = {"active": active_runs} if line.remote else {}
        sweep = Sweep.open(Path(line.directory), line.sweep_named, jobs, **active)
    except (RunLockedError, RunExistsError, SlurmError, OSError) as error:
        cli.fail(str(error))
    done = sweep.done()
    if done:
        print(f"{done} of {len(jobs)} runs are already done in {sweep.path}", flush=True)
    if done == len(jobs):
        print("choose another hydra.sweep.dir to run them again")
        sys.exit(0)
    try:
        run_jobs_in(sweep.path, line, arguments, len(jobs))
    finally:
        print(*sweep.summary(), sep="\n", flush=True)
    sys.exit(0 if sweep.done() == len(jobs) else cli.FAILED)


def run_search(line: CommandLine, arguments: Sequence[str]) -> NoReturn:
    """Run the trials that an earlier attempt has not finished, and write a page about all.

    Exits with 0 if none has failed, else with 1. A trial that diverges has not failed.
    """
    from .report.templates import ForeignFileError
    from .runs.run import RunExistsError, RunLockedError
    from .search import page
    from .search.study import Search

    try:
        search = Search.open(line)
    except (RunLockedError, RunExistsError, ForeignFileError, OSError, ValueError) as error:
        cli.fail(str(error))
    study = search.study
    done = study.finished
    if done:
        print(f"{done} of {study.total} trials have ended in {search.path}", flush=True)
    if not study.is_complete:
        try:
            run_jobs_in(search.path, line, arguments, study.total)
        finally:
            print(*page.summary(search.path), sep="\n", flush=True)
    else:
        is_whole = study.total < study.sweeper["n_trials"]
        print(
            "that is the whole space" if is_whole else "a larger hydra.sweeper.n_trials continues"
        )
    sys.exit(0 if study.is_complete else cli.FAILED)


def run_jobs_in(folder: Path, line: CommandLine, arguments: Sequence[str], count: int) -> None:
    """Run the jobs of a grid or a search in its directory; `count` is how many it has at most."""
    kept = [text for text in arguments if not text.startswith("hydra.sweep.dir=")]
    os.environ[GRID_SIZE] = str(count)
    with names_of_grid(line.swept_keys):
        run_jobs([*kept, f"hydra.sweep.dir={quote(str(folder))}"])


def run_jobs(arguments: Sequence[str]) -> None:
    """Hydra's part: compose each job's configuration and train, here or in other processes."""
    failures: list[str] = []

    @hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")
    def job(cfg: DictConfig) -> float | None:
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        from .callbacks.non_finite import NonFiniteError
        from .data.sources import DataError
        from .runs.checkpoint import CorruptCheckpointError
        from .runs.resume import ResumeError
        from .runs.run import Run, RunExistsError, RunLockedError
        from .runs.sweep import is_done, is_resumable
        from .runtime import process
        from .runtime.distributed import PeerError, is_peer_error
        from .train import train

        expected = (
            *(DataError, RunExistsError, RunLockedError, ResumeError),
            *(CorruptCheckpointError, NonFiniteError, OSError, MisconfigurationException),
            PeerError,
        )
        hydra_config = HydraConfig.get()
        run_dir = Path(hydra_config.runtime.output_dir)
        in_grid = hydra_config.mode == RunMode.MULTIRUN
        if in_grid:
            if is_done(run_dir, cfg):
                return Run(run_dir).val_accuracy
            runs = int(os.environ.get(GRID_SIZE, 1))
            process.limit_threads(process.runs_at_once(hydra_config.launcher, runs))
            if is_resumable(run_dir, cfg):
                cfg = OmegaConf.merge(cfg, {"resume": str(run_dir)})  # type: ignore[assignment]
        try:
            train(cfg, run_dir)
            return Run(run_dir).val_accuracy
        except expected as error:
            in_all = isinstance(error, NonFiniteError | PeerError)  # the first process says so
            if distributed.rank() == 0 or not in_all:
                log.error("%s", error)
        except Exception as error:
            if is_peer_error(error):
                log.error("another process of the run has ended")
            else:
                log.exception("the run failed")
        if in_grid:
            raise RuntimeError(f"failed: {run_dir}") from None
        failures.append(str(run_dir))
        return None

    sys.argv = [sys.argv[0], *arguments]  # Hydra reads it
    job()
    if failures:
        sys.exit(cli.FAILED)


if __name__ == "__main__":
    main()
