"""The command line: python -m imdb_lightning KEY=VALUE ... trains, then tests once."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from . import config, interruption, resume


SYNTHETIC = "data.name=synthetic"
ROOM = 65_536  # bytes: less than any run writes
RUNS = "IMDB_LIGHTNING_RUNS"  # how many a grid has, for the processes that its launcher starts

log = logging.getLogger("imdb_lightning")


def main(pretraining: bool = False) -> None:
    """`pretraining` refuses what is a classifier's run.

    Exits with 0 done, 1 the run failed, 2 the command line is wrong, 130 and 143 interrupted.
    """
    interruption.expect()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own cell, also under the console script
    sys.argv = [resume.literal(text) for text in sys.argv]
    options = get_args_parser().parse_args()
    if options.cfg and options.multirun:
        leave(2, "--cfg shows one configuration: name one job, without -m")
    if options.config_name or options.config_path or options.experimental_rerun:
        leave(
            2, "the configuration is conf/config.yaml; put yours into --config-dir as experiments"
        )
    if not (options.help or options.hydra_help or options.shell_completion):
        line = config.check(options.overrides, bool(options.multirun), options.config_dir)
        if line.mistakes:
            leave(2, *line.mistakes)
        goes_on = [cfg.resume for cfg in line.jobs if cfg.resume is not None]
        if goes_on and line.multirun:
            leave(2, "resume: a grid goes on by itself: give its command again, without resume")
        if (
            goes_on
            and goes_on != ["auto"]
            and "hydra.run.dir" in map(resume.key, options.overrides)
        ):
            leave(2, "resume: a run goes on where it is; leave hydra.run.dir away")
        if pretraining and not goes_on and any("pretrain" not in cfg for cfg in line.jobs):
            leave(2, "nothing is pretrained: choose pretrain=vectors")
        if options.cfg and line.swept:
            leave(2, f"{line.swept[0]}: --cfg shows one configuration: give one value")
        flags = [text for text in sys.argv if text not in options.overrides]
        sys.argv = [*flags, *line.overrides]  # a list in the place of a glob
        if not options.cfg and not options.info:
            wanted = line.jobs[0].resume
            if wanted not in (None, "auto"):
                path = Path(config.full(wanted))
                sys.argv = [*flags, *go_on(path, options.overrides, options.config_dir)]
                run_jobs()
                return
            if prepare(line.jobs):
                given = [*options.overrides, SYNTHETIC]
                line = config.check(given, bool(options.multirun), options.config_dir)
                sys.argv.append(SYNTHETIC)
            if wanted == "auto":
                found = find_run(line, options.overrides)
                if found is not None:
                    sys.argv = [*flags, *go_on(found, sys.argv[len(flags) :], options.config_dir)]
                    run_jobs()
                    return
                print("no unfinished run of this configuration: beginning one", flush=True)
                sys.argv.append("resume=null")
            sys.argv += line.naming
            if line.multirun:
                run_grid(line)
                return
            claim(Path(line.directory))
            sys.argv.append(f"hydra.run.dir={config.quoted(line.directory)}")  # not a moment later
    run_jobs()


def find_run(line: config.CommandLine, given: list[str]) -> Path | None:
    """The run that `resume=auto` goes on with: in the directory that is named, or the newest."""
    directory = Path(line.directory)
    if any(resume.key(text) == "hydra.run.dir" for text in given):
        return directory if (directory / "metrics.json").exists() else None
    return next(iter(resume.unfinished(directory.parent, line.jobs[0])), None)


def go_on(path: Path, given: list[str], config_dir: str | None) -> list[str]:
    """The overrides with which the run in `path` goes on.

    Leaves with 2 where it may not, with 0 where nothing is left to do.
    """
    given = [text for text in given if resume.key(text) not in ("resume", "hydra.run.dir")]
    try:
        texts = resume.overrides(path, given)
        line = config.check(texts, False, config_dir)
        if line.mistakes:
            leave(2, *line.mistakes, *resume.hint(path, config_dir))
        resume.check(path, line.jobs[0])
    except resume.CannotResume as error:
        leave(2, *error.args)
    if resume.is_done(path, line.jobs[0]):
        more = "" if "pretrain" in line.jobs[0] else "; trainer.max_epochs=MORE goes on with it"
        print(f"{path} is done{more}")
        sys.exit(0)
    prepare(line.jobs, stand_in=False)
    claim(path)
    return [*texts, f"hydra.run.dir={config.quoted(str(path))}", "hydra.output_subdir=null"]


def run_grid(line: config.CommandLine) -> NoReturn:
    """Run what an earlier try has not finished, say what failed, and leave: 0 all done, 1 not."""
    from .run import Busy, RunExists
    from .sweep import Sweep

    jobs = dict(zip(line.names, line.jobs, strict=True))
    try:
        sweep = Sweep.claim(Path(line.directory), line.sweep_named, jobs)
    except (Busy, RunExists, OSError) as error:
        leave(2, str(error))
    done = sweep.done()
    if done:
        print(f"{done} of {len(jobs)} runs are done already in {sweep.path}", flush=True)
    if done == len(jobs):
        print("another hydra.sweep.dir=DIRECTORY runs them again")
        sys.exit(0)
    arguments = [text for text in sys.argv if not text.startswith("hydra.sweep.dir=")]
    sys.argv = [*arguments, f"hydra.sweep.dir={config.quoted(str(sweep.path))}"]
    os.environ[RUNS] = str(len(line.jobs))
    try:
        run_jobs()
    finally:
        print(*sweep.summary(), sep="\n", flush=True)
    sys.exit(0 if sweep.done() == len(line.jobs) else 1)


def run_jobs() -> None:
    """Hydra's part: compose each job's configuration and train, here or in other processes."""
    failures: list[str] = []

    @hydra.main(config_path=str(config.conf_dir()), config_name="config", version_base="1.3")
    def job(cfg: DictConfig) -> float | None:
        from . import process
        from .checkpoint import Damaged
        from .data.sources import DataError
        from .finite import NotFinite
        from .run import Busy, Run, RunExists
        from .sweep import goes_on, is_done
        from .train import Changed, train

        hydra_config = HydraConfig.get()
        run_dir = Path(hydra_config.runtime.output_dir)
        if hydra_config.mode == RunMode.MULTIRUN:
            if is_done(run_dir, cfg):
                return Run(run_dir).val_accuracy
            runs = int(os.environ.get(RUNS, 1))
            process.share_cores(process.runs_at_once(hydra_config.launcher, runs))
            if goes_on(run_dir, cfg):
                merged = OmegaConf.merge(cfg, {"resume": str(run_dir)})
                assert isinstance(merged, DictConfig)
                cfg = merged
        try:
            train(cfg, run_dir)
            return Run(run_dir).val_accuracy
        except (DataError, RunExists, Busy, Changed, Damaged, NotFinite, OSError) as error:
            log.error("%s", error)
        except Exception:
            log.exception("the run failed")
        if hydra_config.mode == RunMode.MULTIRUN:
            raise RuntimeError(f"failed: {run_dir}") from None
        failures.append(str(run_dir))
        return None

    job()
    if failures:
        sys.exit(1)


def prepare(jobs: list[DictConfig], stand_in: bool = True) -> bool:
    """Leave with 2 where the jobs ask for what is not here: a device, the reviews, a user's cell.

    True where there are no reviews and data.fallback allows the synthetic corpus to stand in. It
    then goes into the command line, so that the configuration, the run's name and all that it
    writes say so.
    """
    lacks = no_device({cfg.trainer.accelerator for cfg in jobs})
    real = [cfg.data for cfg in jobs if cfg.data.name == "imdb"]
    reviews = no_reviews({(data.path, data.unsupervised) for data in real})
    needed = any(data.fallback is None or data.path is not None for data in real)
    # What went before was made of reviews, not of their stand-in.
    needed |= any(cfg.pretrained or cfg.teacher for cfg in jobs)
    if reviews and (needed or not stand_in):
        lacks.append(reviews)
    lacks += [] if reviews else [*no_pretraining(jobs), *no_teacher(jobs)]
    lacks += no_cells([cfg.model for cfg in jobs if "cell" in cfg.model])
    lacks += [] if lacks else no_precision(jobs)
    if lacks:
        leave(2, *lacks)
    if reviews:
        print(f"imdb_lightning: {reviews}", file=sys.stderr)
        print("imdb_lightning: training on the synthetic corpus instead", file=sys.stderr)
    return reviews is not None


def claim(directory: Path) -> None:
    """Make the run's directory. Leave with 2 where nothing can be written into it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(ROOM))
    except OSError as error:
        leave(2, f"{directory}: {error.strerror}; a run needs a place that it can write to")


def no_device(accelerators: set[str]) -> list[str]:
    """A line for each accelerator that is asked for and not here."""
    if not accelerators - {"auto", "cpu"}:
        return []
    import torch  # seconds: only where the answer needs it

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {"auto": True, "cpu": True, "gpu": cuda or mps, "cuda": cuda, "mps": mps}
    return [
        f"trainer.accelerator={name}: there is no such device here; take trainer=cpu or auto"
        for name in sorted(accelerators)
        if not there[name]
    ]


def no_precision(jobs: list[DictConfig]) -> list[str]:
    """A line for each precision that nn.LSTM does not have on this processor."""
    half = {"16": "float16", "bf": "bfloat16"}
    wanted = {
        str(cfg.trainer.precision): half[str(cfg.trainer.precision)[:2]]
        for cfg in jobs
        if str(cfg.trainer.precision)[:2] in half
        and cfg.model.get("layer", {}).get("_target_") == "torch.nn.LSTM"
    }
    if not wanted:
        return []
    import torch  # seconds: only where the answer needs it

    if torch.cuda.is_available() and any(cfg.trainer.accelerator != "cpu" for cfg in jobs):
        return []
    lines = []
    for precision, name in wanted.items():
        try:
            with torch.autocast("cpu", dtype=getattr(torch, name)):
                torch.nn.LSTM(2, 2)(torch.zeros(3, 1, 2))
        except RuntimeError:
            lines.append(
                f"trainer.precision={precision}: PyTorch's LSTM cannot compute in {name} on this "
                "processor; model=gru, model=custom_lstm or trainer.precision=32-true can"
            )
    return lines


def no_cells(models: list[DictConfig]) -> list[str]:
    """A line for each cell of the user's own that cannot be made."""
    wrong = {}
    for model in models:
        target = model.cell._target_
        if not str(target).startswith("imdb_lightning.") and target not in wrong:
            from .model.network import cell_maker

            try:
                cell_maker(model.cell)(2, 2)
            except Exception as error:  # noqa: BLE001  a stranger's code: whatever it raises counts
                reason = f"{type(error).__name__}: {config.one_line(error)}"
                wrong[target] = f"model.cell._target_={target}: {reason}"
    return list(wrong.values())


def no_pretraining(jobs: list[DictConfig]) -> list[str]:
    """A line for each reason why a job cannot begin with what it names as pretrained."""
    from .pretrain import pretrained

    began = [cfg for cfg in jobs if cfg.pretrained is not None]
    lines = [line for cfg in began for line in pretrained.mistakes(cfg)]
    if any("pretrain" in cfg for cfg in jobs) and find_spec("gensim") is None:
        lines.append("pretrain=vectors: it takes pip install 'imdb-lightning[pretrain]'")
    return list(dict.fromkeys(lines))


def no_teacher(jobs: list[DictConfig]) -> list[str]:
    """A line for each reason why a job cannot learn from the run that it names as teacher."""
    taught = [cfg for cfg in jobs if cfg.teacher is not None]
    if not taught:
        return []
    from . import teacher  # seconds: only where the answer needs it

    lines = [line for cfg in taught for line in teacher.mistakes(cfg)]
    return list(dict.fromkeys(lines))


def no_reviews(paths: set[tuple[str | None, bool]]) -> str | None:
    """Why there are no reviews in one of these places; None where all have some.

    With each place stands whether those without labels are asked for.
    """
    if not paths:
        return None
    from .data import sources

    try:
        for path, unsupervised in paths:
            sources.find(path, unsupervised)
    except sources.DataNotFound as error:
        return str(error)
    return None


def leave(code: int, *lines: str) -> NoReturn:
    for line in lines:
        print(f"imdb_lightning: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
