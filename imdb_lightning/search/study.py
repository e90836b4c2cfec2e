"""A search for hyperparameters: Optuna's sampler proposes trials, each of them is a run.

sweep.json    what is searched: the space, the settings, the configuration of all trials
study.log     Optuna's study: the trials and their val/acc by epoch, for optuna.load_study too
<overrides>/  a run directory for each trial
search.html   the page
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from omegaconf import DictConfig
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..config.identity import config_hash
from ..config.overrides import CommandLine
from ..config.space import Dimension
from ..config.text import one_line
from ..report.templates import refuse_foreign
from ..runs import reader, sweep
from ..runs.run import Run, RunExistsError


MARK = "imdb_lightning.search"  # in the pages
MARKS = (f"<!-- {MARK} -->", f'<meta name="generator" content="{MARK}">')
STUDY = "imdb_lightning"  # the study's name in study.log
# Attributes of a trial.
RUN, PROPOSAL, KNOWN = "run", "proposal", "known"
REASON, DIVERGED = "reason", "diverged"
MAX_STUDY = 64 * reader.MIB  # bytes of study.log; 10,000 trials have less
TRIES = 20  # of the sampler, for a trial that is new
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Search:
    """One search's directory, locked by this process until it ends."""

    def __init__(self, path: Path, study: Study, lock: int | None) -> None:
        self.path = path
        self.study = study
        self.lock = lock

    @classmethod
    def open(cls, line: CommandLine) -> Search:
        """Start or continue the search of a command line.

        It continues a search of the same configuration, space and settings, whatever its number of
        trials. Raises RunLockedError if another process is working in the directory, RunExistsError
        if it contains something else, ValueError if study.log is corrupt, ForeignFileError for a
        page that is not of a search.
        """
        wanted = description(line)
        folder, lock = sweep.open_folder(
            Path(line.directory), line.sweep_named, lambda path: sweep.read_search(path) == wanted
        )
        found = sweep.read_search(folder)
        if found != wanted and (found or sweep.read_plan(folder)):
            changed = [key for key in wanted if found and found.get(key) != wanted[key]]
            what = f"a search with another {' and '.join(changed)}" if changed else "a grid"
            raise RunExistsError(f"{folder}: contains {what}; name a new hydra.sweep.dir")
        refuse_foreign(folder / "search.html", *MARKS)
        study = Study(folder, line.space, line.sweeper)
        sweep.write_json(folder, {"search": wanted})
        return cls(folder, study, lock)


def description(line: CommandLine) -> dict[str, Any]:
    """What a search is: two with the same description may continue each other."""
    cfg = line.jobs[0]
    reviews = None
    if cfg.data.name == "imdb":
        from ..data import sources  # late: not needed for the synthetic corpus

        try:
            reviews = sources.path_fingerprint(cfg.data.path)
        except sources.DataNotFoundError:  # only the nodes of a cluster have them
            reviews = None
    ignored = ("_target_", "params", "n_trials")
    found = {
        "space": {one.name: one._asdict() for one in line.space},
        "configuration": config_hash(cfg),
        "reviews": reviews,
        "settings": {key: value for key, value in line.sweeper.items() if key not in ignored},
    }
    return json.loads(json.dumps(found))


def read_space(folder: Path) -> list[Dimension]:
    """The space of the search in `folder`. Raises ValueError if there is none."""
    try:
        return [Dimension(**one) for one in sweep.read_search(folder)["space"].values()]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{folder / 'sweep.json'}: not that of a search") from None


class Proposal(NamedTuple):
    """A trial to run."""

    trial: int  # its number in the study
    overrides: list[str]  # of the dimensions


class Study:
    """Optuna's study in a sweep directory. One process writes to it; the trials read it."""

    def __init__(
        self, folder: Path, space: Sequence[Dimension], sweeper: Mapping[str, Any]
    ) -> None:
        """Open the study in `folder`, or create it.

        Raises ValueError if study.log is corrupt.
        """
        self.space = space
        self.sweeper = sweeper
        self.distributions = {one.name: distribution(one) for one in space}
        self.study = open_study(folder, writes=True)

    @property
    def trials(self) -> list[FrozenTrial]:
        """One of each proposal, in their order: its last attempt."""
        return last_attempts(self.study)

    def propose(self, seed: int) -> Proposal | None:
        """The next trial, recorded as running; None if it has to wait, or if there is no more.

        It is a function of the seed, the space and the results of the trials before the last
        `max_concurrent` - 1, so that neither the number of processes nor an interruption changes
        a search.
        """
        trials = self.trials
        number = len(trials)
        known = trials[: max(0, number + 1 - self.sweeper["max_concurrent"])]
        if number >= self.total or any(trial.state not in FINISHED for trial in known):
            return None
        values = self._new_values(seed, number, trials, known)
        return self._add(number, values, [trial.number for trial in known])

    @property
    def total(self) -> int:
        """Trials of the whole search: `n_trials`, or all that the space has."""
        return min(self.sweeper["n_trials"], size(self.space) or self.sweeper["n_trials"])

    @property
    def is_complete(self) -> bool:
        """True if there is nothing left to run."""
        return self.finished >= self.total and not any(map(has_failed, self.trials))

    def retry(self) -> list[Proposal]:
        """Trials to run again: those that were running when a search ended, and those that failed.

        A trial whose numbers became NaN would do so again.
        """
        again = []
        for number, trial in enumerate(self.trials):
            if trial.state == TrialState.RUNNING:
                again.append(Proposal(trial.number, self.overrides(trial.params)))
            elif has_failed(trial):
                again.append(self._add(number, trial.params, trial.user_attrs[KNOWN]))
        return again

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        return [
            f"{one.key}={values[one.name] if one.choices else one.text(values[one.name])}"
            for one in self.space
        ]

    @property
    def finished(self) -> int:
        """How many trials have ended."""
        return sum(trial.state in FINISHED for trial in self.trials)

    def start(self, number: int, name: str) -> None:
        """The trial is about to run in the directory `name`."""
        self._trial(number).set_user_attr(RUN, name)

    def has_failed(self, number: int) -> bool:
        return has_failed(self.study.get_trials()[number])

    def fail(self, number: int, reason: str, diverged: bool = False) -> None:
        trial = self._trial(number)
        trial.set_user_attr(REASON, reason)
        trial.set_user_attr(DIVERGED, diverged)
        self.study.tell(number, state=TrialState.FAIL)

    def _trial(self, number: int) -> optuna.trial.Trial:
        return optuna.trial.Trial(self.study, self.study.get_trials()[number]._trial_id)

    def record(self, number: int, cfg: DictConfig, path: Path) -> None:
        """Record in the study how the trial in the run directory `path` ended."""
        run = Run(path)
        done = sweep.is_done(path, cfg)
        trial = self._trial(number)
        trial.set_user_attr(RUN, path.name)
        accuracies = val_accuracies(run)
        for epoch, accuracy in accuracies.items():
            trial.report(accuracy, epoch)
        if done:
            self.study.tell(number, run.val_accuracy)
        elif run.status == "pruned" and accuracies:
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.fail(number, sweep.failure_reason(run), run.diverged)

    def _add(self, number: int, values: Mapping[str, Any], known: Sequence[int]) -> Proposal:
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(values),
            distributions=self.distributions,
            user_attrs={PROPOSAL: number, KNOWN: [*known]},
        )
        self.study.add_trial(trial)
        return Proposal(len(self.study.get_trials()) - 1, self.overrides(values))

    def _new_values(
        self, seed: int, number: int, trials: Sequence[FrozenTrial], known: Sequence[FrozenTrial]
    ) -> dict[str, Any]:
        """Values that no trial has had: a second run of them would have the same result."""
        taken = {tuple(self.overrides(trial.params)) for trial in trials}
        for attempt in range(TRIES):
            state = np.random.SeedSequence([seed, number, attempt]).generate_state(1)
            memory = optuna.create_study(
                direction="maximize", sampler=sampler(self.sweeper, int(state[0]))
            )
            memory.add_trials(known)
            values = self._rounded(memory.ask(self.distributions).params)
            if tuple(self.overrides(values)) not in taken:
                return values
        if size(self.space) is None:
            return values
        left = [point for point in points(self.space) if tuple(self.overrides(point)) not in taken]
        return left[np.random.default_rng([seed, number]).integers(len(left))]

    def _rounded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers that are written on the command line."""
        return {
            one.name: values[one.name] if one.choices else number_of(one, values[one.name])
            for one in self.space
        }


class Pruner:
    """Ends a trial, by the trials whose results were known when it was proposed."""

    def __init__(self, sweeper: Mapping[str, Any], known: Sequence[FrozenTrial]) -> None:
        self.pruner = optuna.pruners.MedianPruner(
            n_startup_trials=sweeper["pruner_startup_trials"],
            n_warmup_steps=sweeper["n_warmup_epochs"] + 1,  # steps are epochs, from 1
        )
        self.known = known

    @classmethod
    def of(cls, path: Path) -> Pruner | None:
        """For the run in `path`; None if it is no trial that runs, or none is pruned."""
        settings = sweep.read_search(path.parent).get("settings", {})
        try:
            trials = open_study(path.parent).get_trials()
        except (OSError, ValueError):
            return None
        for trial in trials:
            if trial.state == TrialState.RUNNING and trial.user_attrs.get(RUN) == path.name:
                known = [trials[number] for number in trial.user_attrs[KNOWN]]
                return cls(settings, known) if settings["pruner"] == "median" else None
        return None

    def prunes(self, accuracies: Mapping[int, float]) -> bool:
        """`accuracies` is val/acc by epoch, 1 the first."""
        study = optuna.create_study(direction="maximize", pruner=self.pruner)
        study.add_trials(self.known)
        trial = study.ask()
        for epoch, accuracy in accuracies.items():
            trial.report(accuracy, epoch)
        return trial.should_prune()


def number_of(one: Dimension, value: float) -> float:
    text = one.text(value)
    return int(text) if one.integer else float(text)


def distribution(one: Dimension) -> BaseDistribution:
    """Optuna's distribution of a dimension."""
    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.integer:
        step = 1 if one.step is None else int(one.step)
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=step)
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def size(space: Sequence[Dimension]) -> int | None:
    """How many points a space has; None if one of its dimensions is continuous."""
    count = 1
    for one in space:
        if one.choices:
            count *= len(one.choices)
        elif one.integer or one.step is not None:
            count *= int((one.high - one.low) / (one.step or 1) + 1.5)
        else:
            return None
    return count


def points(space: Sequence[Dimension]) -> Iterator[dict[str, Any]]:
    """All points of a space that is not continuous."""
    axes: list[Sequence[Any]] = []
    for one in space:
        count = int((one.high - one.low) / (one.step or 1) + 1.5)
        axes.append(
            one.choices or [number_of(one, one.low + (one.step or 1) * i) for i in range(count)]
        )
    for point in product(*axes):
        yield dict(zip((one.name for one in space), point, strict=True))


def sampler(sweeper: Mapping[str, Any], seed: int) -> optuna.samplers.BaseSampler:
    if sweeper["sampler"] == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=sweeper["n_startup_trials"])


def open_study(folder: Path, writes: bool = False) -> optuna.Study:
    """The study in `folder`. `writes` creates it if need be, and needs the directory's lock.

    Raises OSError, and ValueError if study.log is no study of a search.
    """
    file = folder / "study.log"
    try:
        content = reader.read_bytes(file, MAX_STUDY) if file.exists() or not writes else b""
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if content and f'"study_name":"{STUDY}"'.encode() not in content.partition(b"\n")[0]:
        raise ValueError(f"{file}: not the study of a search")
    if writes:
        file.with_name("study.log.lock").unlink(missing_ok=True)  # of a process that was killed
        file.touch()
    if writes and not content.endswith(b"\n"):  # the rest of a line, which a kill has cut
        content = content[: content.rfind(b"\n") + 1]
        os.truncate(file, len(content))
    try:
        storage = JournalStorage(JournalFileBackend(str(file)))
        if writes and not content:
            optuna.create_study(storage=storage, study_name=STUDY, direction="maximize")
        study = optuna.load_study(storage=storage, study_name=STUDY)
        last_attempts(study)
        return study
    except Exception as error:  # noqa: BLE001  Optuna checks nothing of what it reads
        raise ValueError(f"{file}: not the study of a search: {one_line(error)}") from None


def last_attempts(study: optuna.Study) -> list[FrozenTrial]:
    """One trial of each proposal, in their order: its last attempt."""
    found: dict[int, FrozenTrial] = {}
    for trial in study.get_trials():
        found[trial.user_attrs[PROPOSAL]] = trial
    return [found[number] for number in sorted(found)]


def has_failed(trial: FrozenTrial) -> bool:
    """True for a failure that another attempt may not have: no NaN."""
    return trial.state == TrialState.FAIL and not trial.user_attrs.get(DIVERGED)


def val_accuracies(run: Run) -> dict[int, float]:
    """val/acc by epoch; empty if metrics.json cannot be read."""
    try:
        return {epoch["epoch"]: epoch["val/acc"] for epoch in run.metrics["epochs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
