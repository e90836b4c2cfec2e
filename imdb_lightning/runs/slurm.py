"""Hydra's launcher `slurm`: a job of a SLURM cluster for each run, submitted as job arrays.

It needs sbatch, squeue, scancel and scontrol, and no accounting. Each job runs
`python -m imdb_lightning ... resume=auto`; its run directory says how it ended. In the sweep's
directory, .slurm/ has the job scripts, their output before a run starts, and jobs.json: the job of
each run, so that the same command attaches to those that are queued or running.
"""

from __future__ import annotations

import getpass
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import ListConfig

from ..config.text import one_line, quote
from . import reader, storage, sweep
from .launcher import Job, Pool, Queue, progress_bar, show
from .run import Run


POLL = 3.0  # seconds between two looks at the queue
SECOND_THOUGHTS = 3.0  # seconds after Ctrl-C, before the jobs are cancelled
LATE = 20.0  # seconds that a job may be out of the queue before it, or its files, appear
KILLED = (130, 137, 143)  # exit codes of signals: the run can be resumed
CANCELLED = 90.0  # seconds for jobs that are cancelled to save a checkpoint and end
# Why a job waits that will run; the others may need the user.
USUAL = {"None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit", "Cleaning"}
ENDED = {  # SLURM's states of jobs that run no more, and the reason to record
    "COMPLETED": "ended without a result",
    "FAILED": "",  # its exit code says more
    "CANCELLED": "cancelled, such as by scancel",
    "TIMEOUT": "killed at the time limit; a larger signal_delay_s leaves more time to save",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "out of memory; give more mem_gb",
    "BOOT_FAIL": "its node did not boot",
    "DEADLINE": "missed its deadline",
    "PREEMPTED": "preempted, and not requeued",
}
SCRIPT = """\
#!/bin/bash
# A job of imdb_lightning's launcher slurm: {path!a}
cd {cwd} || exit 1
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-${{SLURM_CPUS_PER_TASK:-1}}}}
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}  # srun does not take it from sbatch
case $SLURM_ARRAY_TASK_ID in
{cases}
*) exit 2 ;;
esac
id=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
# Without locks on the file system, this keeps a second job from the same directory.
owner=$(cat "$folder/.slurm_job" 2>/dev/null)
if [ -n "$owner" ] && [ "$owner" != "$id" ] && [ -n "$(squeue -h -t R,CG -j "$owner" 2>/dev/null)" ]
then echo "job $owner is running in $folder"; exit 1; fi
echo "$id" >"$folder/.slurm_job.$id" && mv "$folder/.slurm_job.$id" "$folder/.slurm_job"
exec >>"$folder/console.log" 2>&1
{setup}
warned=
trap 'warned=1; {warn}' USR1  # before the time limit: save a checkpoint, queue again
trap : TERM  # SLURM sends it to all processes; this one waits for the run's end
{command} "${{arguments[@]}}" &
pid=$!
while :; do
    wait "$pid"; code=$?
    kill -0 "$pid" 2>/dev/null || break
done
echo "$code" >"$folder/.slurm_exit"
if [ -n "$warned" ] && [ "$code" = 143 ]; then
    echo "time limit: job $id is queued again"
    scontrol requeue "$id" && sleep 60
fi
exit "$code"
"""


class State(NamedTuple):
    """A job in the queue."""

    name: str  # SLURM's, such as RUNNING
    reason: str  # why it is pending


class SlurmError(Exception):
    """SLURM refused a command."""


class Slurm(Pool):
    """The keyword arguments are the keys of conf/hydra/launcher/slurm.yaml."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def run(self, queue: Queue) -> None:
        """Exits with 1 if jobs cannot be submitted."""
        self.start_logging()
        try:
            self._run(queue)
        except SlurmError as error:
            print(f"imdb_lightning: {error}; rerun the same command", file=sys.stderr)
            raise SystemExit(1) from None

    def _run(self, queue: Queue) -> None:
        folder = Path(self.config.hydra.sweep.dir).absolute()
        known = read_jobs(folder)
        states = squeue() if known else {}
        running: dict[str, Job] = {}  # by the id of the job
        taken: list[float] = []  # seconds of the runs that are done
        said: dict[str, str] = {}  # why a job waits
        ended: dict[str, float] = {}  # since when a job is not in the queue
        bar = progress_bar(queue)
        try:
            with bar:
                while True:
                    new: list[Job] = []
                    while len(running) + len(new) < queue.at_once:
                        job = queue.next()
                        if job is None:
                            break
                        id_ = known.get(job.path.name, "")
                        if is_active(states.get(id_)):
                            bar.write(f"{job.label}: attached to job {id_}")
                            running[id_] = job
                        else:
                            new.append(job)
                    for shape in sorted({tasks_of(job) for job in new}):
                        alike = [job for job in new if tasks_of(job) == shape]
                        for id_, job in self.submit(folder, alike).items():
                            running[id_] = job
                            known[job.path.name] = id_
                    if not running:
                        break
                    time.sleep(POLL)
                    states = squeue()
                    for id_, job in list(running.items()):
                        state = states.get(id_)
                        name, reason = state or (None, "")
                        if name == "RUNNING" and job.started is None:
                            job.started = time.monotonic()
                            job.epochs = job.first = Run(job.path).completed_epochs
                        if name == "PENDING" and reason not in {*USUAL, said.get(id_)}:
                            said[id_] = reason
                            bar.write(f"{job.label}: job {id_} waits: {reason}")
                        if is_active(state):
                            ended.pop(id_, None)
                            continue
                        waited = time.monotonic() - ended.setdefault(id_, time.monotonic())
                        if (state is None or is_silent(job)) and waited < LATE:
                            continue
                        del running[id_]
                        how = finish(job, id_, state)
                        queue.end(job)
                        bar.update(queue.finished - bar.n)
                        if sweep.is_done(job.path, job.config):
                            taken.append(job.seconds)
                        bar.write(f"[{queue.finished}/{queue.total}] {job.label}: {how}")
                    if not bar.disable:
                        jobs = [job for job in running.values() if job.started is not None]
                        waiting = queue.total - queue.finished - len(jobs)
                        show(bar, taken, jobs, waiting, max(1, len(jobs)))
        except (KeyboardInterrupt, SystemExit) as end:
            self.interrupted(running, end)
            raise

    def is_running(self, path: Path) -> bool:
        return path.name in active_runs(path.parent)

    def submit(self, folder: Path, jobs: Sequence[Job]) -> dict[str, Job]:
        """Submit an array of jobs; returns them by their ids. Raises SlurmError."""
        if not jobs:
            return {}
        own = folder / ".slurm"
        own.mkdir(parents=True, exist_ok=True)
        for job in jobs:
            job.path.mkdir(parents=True, exist_ok=True)
            (job.path / ".slurm_exit").unlink(missing_ok=True)  # of an earlier job
        file = own / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{len([*own.glob('*.sh')])}.sh"
        storage.atomic_write(file, self.script(jobs, file).encode())
        output = call("sbatch", *self.sbatch_options(jobs, own), str(file)).strip()
        array = output.split(";")[0]  # of several clusters: ID;CLUSTER
        if not array.isdecimal():
            raise SlurmError(f"sbatch: {output[:200]}")
        ids = {f"{array}_{number}": job for number, job in enumerate(jobs)}
        known = read_jobs(folder) | {job.path.name: id_ for id_, job in ids.items()}
        storage.atomic_write(own / "jobs.json", (json.dumps(known, indent=1) + "\n").encode())
        return ids

    def script(self, jobs: Sequence[Job], file: Path) -> str:
        """The script of an array: the task's number chooses its run."""
        cases = []
        for number, job in enumerate(jobs):
            arguments = [
                *(*self.arguments(), *job.overrides),
                *(f"hydra.run.dir={quote(str(job.path))}", "resume=auto", "hydra.mode=RUN"),
            ]
            if job.config.data.get("fallback") is not None:
                arguments.append(
                    "data.fallback=null"
                )  # a node without the reviews would not say so
            folder = shlex.quote(str(job.path))
            cases.append(f"{number}) folder={folder}; arguments=({shlex.join(arguments)}) ;;")
        nodes, each = tasks_of(jobs[0])
        tasks = nodes * each
        words = [*(["srun"] if tasks > 1 else []), *self.prefix]
        return SCRIPT.format(
            path=file,
            cwd=shlex.quote(str(Path.cwd())),
            cases="\n".join(cases),
            setup="\n".join(self.options["setup"] or []),
            # srun itself would kill its tasks.
            warn='scancel --signal=TERM "$SLURM_JOB_ID.0"' if tasks > 1 else 'kill -TERM "$pid"',
            command=shlex.join([*words, sys.executable, "-m", "imdb_lightning"]),
        )

    @property
    def prefix(self) -> list[str]:
        return shlex.split(self.options["prefix"] or "")

    def sbatch_options(self, jobs: Sequence[Job], own: Path) -> list[str]:
        """The options of sbatch."""
        given = self.options
        nodes, tasks = tasks_of(jobs[0])
        gpus = given["gpus_per_node"]
        if gpus is None and any(job.config.trainer.accelerator in ("gpu", "cuda") for job in jobs):
            gpus = tasks
        limit = f"%{given['array_parallelism']}" if given["array_parallelism"] else ""
        options = {
            "job-name": "imdb_lightning",
            "array": f"0-{len(jobs) - 1}{limit}",
            "nodes": nodes,
            "ntasks-per-node": tasks,
            "time": given["timeout_min"],
            "signal": f"B:USR1@{given['signal_delay_s']}",
            "cpus-per-task": given["cpus_per_task"],
            "mem": given["mem_gb"] and f"{round(given['mem_gb'] * 1024)}M",
            "gpus-per-node": gpus,
            "output": own / "%A_%a.log",
            **{key: given[key] for key in ("partition", "account", "qos", "constraint")},
            **(given["more"] or {}),
        }
        words = [word for key, value in options.items() for word in option(key, value)]
        return ["--parsable", "--requeue", "--open-mode=append", *words]

    def interrupted(self, running: Mapping[str, Job], end: BaseException) -> None:
        """Ctrl-C cancels the jobs; a second one, or SIGTERM, leaves them."""
        if not running:
            return
        attach = "the same command attaches to them"
        if getattr(end, "code", None) == 143:
            print(f"{len(running)} jobs stay in the queue; {attach}", flush=True)
            return
        print(
            f"cancelling {len(running)} jobs in {SECOND_THOUGHTS:.0f} s; a second Ctrl-C leaves "
            f"them in the queue, and {attach}",
            flush=True,
        )
        time.sleep(SECOND_THOUGHTS)  # a second signal ends this process
        call("scancel", *running)
        give_up = time.monotonic() + CANCELLED
        while time.monotonic() < give_up and any(
            is_active(state) for id_, state in squeue().items() if id_ in running
        ):
            time.sleep(1)
        print(f"cancelled {len(running)} jobs; the same command resumes their runs", flush=True)


def option(key: str, value: Any) -> list[str]:
    """An option of sbatch; True for one without a value."""
    if value is None or value is False:
        return []
    if isinstance(value, ListConfig | list):
        value = ",".join(map(str, value))
    return [f"--{key}"] if value is True else [f"--{key}={value}"]


def tasks_of(job: Job) -> tuple[int, int]:
    """The nodes of a run, and its processes on each."""
    return job.config.trainer.get("num_nodes", 1), job.devices


def is_active(state: State | None) -> bool:
    """True for a job that is queued or running, or that is being requeued."""
    return state is not None and state.name not in ENDED


def is_silent(job: Job) -> bool:
    """True if the run does not say how it ended, or its files have not arrived yet."""
    return Run(job.path).status in (None, "running")


def finish(job: Job, id_: str, state: State | None) -> str:
    """A line about a run whose job has ended. Records a failure in its directory."""
    name = "COMPLETED" if state is None else state.name
    why = ENDED.get(name, name)
    try:
        code = int(reader.read_text(job.path / ".slurm_exit", 100))
    except (OSError, ValueError):
        code = 1
    if not why and code in KILLED:
        why = f"killed, exit code {code}"
    elif not why and not job.console.exists():
        why = f"see {job.path.parent / '.slurm' / id_}.log"
    is_own = Run(job.path).status in ("failed", "done", "pruned")
    if why and not is_own:
        job.reason = f"job {id_}: {why}"
    try:
        return job.finish(code)
    except Exception as error:  # noqa: BLE001  any error concerns this run alone
        return f"failed: {one_line(error)}"


def active_runs(folder: Path) -> set[str]:
    """The runs of a sweep that have a job in the queue, by the names of their directories."""
    known = read_jobs(folder)
    states = squeue() if known else {}
    return {name for name, id_ in known.items() if is_active(states.get(id_))}


def read_jobs(folder: Path) -> dict[str, str]:
    """The job of each run, by the name of its directory."""
    try:
        found = reader.read_json(folder / ".slurm" / "jobs.json")
        return {str(name): str(id_) for name, id_ in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def squeue() -> dict[str, State]:
    """The user's jobs by id, those that have ended lately included.

    Waits until SLURM answers: a controller that restarts loses no job.
    """
    if shutil.which("squeue") is None:
        raise SlurmError("squeue: no such command; hydra/launcher=slurm needs SLURM")
    said = False
    while True:
        try:
            text = call(
                "squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T|%r"
            )
            break
        except SlurmError as error:
            if not said:
                print(f"{error}; trying again", file=sys.stderr, flush=True)
            said = True
            time.sleep(POLL)
    rows = (line.strip().split("|", 2) for line in text.splitlines() if line.count("|") > 1)
    return {id_: State(name, reason) for id_, name, reason in rows}


def call(*words: str) -> str:
    """What a command prints. Raises SlurmError."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise SlurmError(f"{words[0]}: no such command; hydra/launcher=slurm needs SLURM") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]}: no answer in two minutes") from None
    if done.returncode != 0:
        text = re.sub(r"^\w+: (error: )?", "", done.stderr.strip() or done.stdout.strip())
        raise SlurmError(f"{words[0]}: {' '.join(text.split())[:300]}")
    return done.stdout
