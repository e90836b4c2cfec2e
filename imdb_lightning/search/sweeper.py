"""Hydra's sweeper `optuna`: each trial of a search is a run, started by the chosen launcher."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ..config.overrides import with_plus
from ..config.space import last_of_each
from ..runs import sweep
from ..runs.launcher import Job, Pool
from ..runs.run import Run, RunExistsError, RunLockedError


if TYPE_CHECKING:  # Hydra imports every plugin; optuna is an extra
    from .study import Proposal, Study


MAX_FAILURES = 3  # in a row, before a search stops: the next ones would fail as well


class OptunaSweeper(Sweeper):
    """The keyword arguments are the keys of conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, params: dict[str, str] | None, **settings: Any) -> None:
        self.params = params or {}
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.loader = hydra_context.config_loader
        self.master = config
        self.pool = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from .study import Study, read_space

        folder = Path(self.master.hydra.sweep.dir)
        OmegaConf.save(self.master, folder / "multirun.yaml")
        space = read_space(folder)
        searched = {one.name for one in space}
        parser = OverridesParser.create(config_loader=self.loader)
        given = parser.parse_overrides(arguments)
        own = parser.parse_overrides([with_plus(f"{k}={v}") for k, v in self.params.items()])
        fixed = [
            f"{override.get_key_element()}={override.get_value_element_as_str()}"
            for override in last_of_each([*own, *given])
            if override.get_key_element().lstrip("+") not in searched
        ]
        queue = Trials(Study(folder, space, self.settings), self.job, fixed, self.is_running)
        if isinstance(self.pool, Pool):
            self.pool.run(queue)
            return
        one_at_a_time = type(self.pool).__name__ == "BasicLauncher"
        while True:
            jobs: list[Job] = []
            while len(jobs) < (1 if one_at_a_time else queue.at_once):
                job = queue.next()
                if job is None:
                    break
                jobs.append(job)
            if not jobs:
                return
            self.pool.launch([job.overrides for job in jobs], queue.finished)
            for job in jobs:
                queue.end(job)

    def is_running(self, path: Path) -> bool:
        return isinstance(self.pool, Pool) and self.pool.is_running(path)

    def job(self, overrides: Sequence[str], label: str) -> Job:
        config = self.loader.load_sweep_config(self.master, list(overrides))
        return Job(config, overrides, label)


class Trials:
    """The trials of a search, as a launcher's queue."""

    def __init__(
        self,
        study: Study,
        make_job: Callable[[Sequence[str], str], Job],
        fixed: Sequence[str],
        is_running: Callable[[Path], bool],
    ) -> None:
        self.study = study
        self.make_job = make_job
        self.fixed = fixed
        self.is_running = is_running
        self.again = deque(study.retry())
        self.numbers: dict[Path, int] = {}  # of the trials that run
        self.failures = 0  # in a row
        probe: Job = make_job([*fixed, *(one.extremes[0] for one in study.space)], "")
        self.seed: int = probe.config.seed
        self.uses_gpu = probe.uses_gpu
        self.devices = probe.devices

    @property
    def total(self) -> int:
        return self.study.total

    @property
    def finished(self) -> int:
        return self.study.finished

    @property
    def at_once(self) -> int:
        return min(self.study.sweeper["max_concurrent"], self.total - self.finished)

    def next(self) -> Job | None:
        """A trial to start; None if there is none now, and at the end."""
        while self.failures < MAX_FAILURES:
            proposal = self.again.popleft() if self.again else self.study.propose(self.seed)
            if proposal is None:
                return None
            job = self._job(proposal)
            if sweep.is_done(job.path, job.config) or Run(job.path).status == "pruned":
                self.study.record(proposal.trial, job.config, job.path)  # the search was killed
                continue
            try:
                unfinished = sweep.is_unfinished(job.path, job.config)
                if unfinished and not self.is_running(job.path):
                    sweep.make_room(job.path, job.config)
            except (RunExistsError, RunLockedError) as error:
                self.study.fail(proposal.trial, str(error))
                self.failures += 1
                continue
            self.study.start(proposal.trial, job.path.name)
            self.numbers[job.path] = proposal.trial
            return job
        return None

    def end(self, job: Job) -> None:
        number = self.numbers.pop(job.path)
        self.study.record(number, job.config, job.path)
        self.failures = self.failures + 1 if self.study.has_failed(number) else 0

    def _job(self, proposal: Proposal) -> Job:
        label = ",".join(text.lstrip("+") for text in proposal.overrides)
        return self.make_job([*self.fixed, *proposal.overrides], label)
