"""All that is measured on a GPU, in one run of a few minutes that stops cleanly at its limit.

It runs from a checkout, on a machine that has PyTorch and no network. Everything in it runs on a
CPU too (--device cpu), at sizes that a CPU can do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..runs import storage
from ..runs.checkpoint import read_state_dict
from ..runs.run import Run
from . import gpu_layers
from .gpu_layers import Size
from .timing import table


BUILT_IN = ("rnn", "lstm", "gru", "gru_before")
OTHERS = [
    f"tests.model.papers.{name}" for name in ("PeepholeLSTM", "LayerNormLSTM", "MinimalGatedUnit")
]
EPOCHS = {
    "report/lstm": ["experiment=report/lstm"],
    "report/custom_lstm": ["experiment=report/custom_lstm"],
    "gru": ["model=gru"],
    "custom_gru": ["model=custom_gru"],
}
CHECKOUT = Path(__file__).resolve().parents[2]


class OutOfTimeError(Exception):
    """The time limit of all stages is reached."""


class Bench:
    """The stages of the run, and their figures so far."""

    def __init__(self, device: str, minutes: float, folder: Path, rounds: int) -> None:
        self.device = device
        self.ends = time.monotonic() + 60 * minutes
        self.folder = folder
        self.rounds = rounds
        self.figures: dict[str, Any] = {"device": device, "stages": {}}
        folder.mkdir(parents=True, exist_ok=True)
        self.reviews = [] if os.environ.get("IMDB_DATA") else ["data=synthetic"]
        if device == "cpu":
            self.reviews += ["data.train_size=64", "data.val_size=16", "data.test_size=16"]

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def run(self, stages: dict[str, Callable[[Bench], Any]]) -> dict[str, Any]:
        for name, stage in stages.items():
            started = time.monotonic()
            print(f"\n== {name} ({self.left:.0f} s left)", flush=True)
            found: dict[str, Any] = {}
            try:
                if self.left < 5:
                    raise OutOfTimeError
                found["figures"] = stage(self)
                found["status"] = "done"
            except (OutOfTimeError, subprocess.TimeoutExpired):
                found["status"] = "out of time"
            except Exception as error:  # noqa: BLE001  the other stages are still worth their time
                found["status"] = f"failed: {type(error).__name__}: {error}"
            found["seconds"] = time.monotonic() - started
            self.figures["stages"][name] = found
            self.save()
            print(f"{name}: {found['status']}, {found['seconds']:.0f} s", flush=True)
        rows = [[n, s["status"], f"{s['seconds']:.0f}"] for n, s in self.figures["stages"].items()]
        print("\n" + table(["stage", "status", "s"], rows), flush=True)
        return self.figures

    def save(self) -> None:
        storage.atomic_write(
            self.folder / "gpu.json", (json.dumps(self.figures, indent=1) + "\n").encode()
        )

    def command(self, *arguments: str, module: str = "imdb_lightning") -> str:
        """The output of `python -m module`. Raises RuntimeError with its end if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=max(1, self.left),
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stdout[-1500:]}")
        return done.stdout

    def train(self, name: str, *overrides: str) -> Path:
        """Train one run; returns its directory."""
        path = self.folder / "runs" / name
        shutil.rmtree(path, ignore_errors=True)
        self.command(*self.overrides(*overrides), f"hydra.run.dir={path}")
        return path

    def overrides(self, *overrides: str) -> list[str]:
        trainer = "gpu" if self.device == "cuda" else "cpu"
        return [*overrides, *self.reviews, f"trainer={trainer}"]


def tests(bench: Bench) -> Any:
    """The tests that need a GPU."""
    if bench.device == "cpu":
        return "skipped: no GPU"
    log = bench.folder / "tests.txt"
    workers = min(12, os.cpu_count() or 1)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:benchmark",
        "-v",
        "--tb=short",
    ]
    command += [f"--numprocesses={workers}", f"--maxprocesses={workers}", "--dist=worksteal"]
    most = max(1, min(bench.left, 180))
    with log.open("wb") as file:
        subprocess.run(command, cwd=CHECKOUT, stdout=file, stderr=subprocess.STDOUT, timeout=most)
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    failed = [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))]
    print("\n".join([*failed[:40], lines[-1]]))
    return {"failed": failed, "result": lines[-1]}


def layers(bench: Bench) -> Any:
    """Every built-in cell and three others against cuDNN, sizes of most use first."""
    cells = [*BUILT_IN, *OTHERS]
    rows: list[dict[str, Any]] = []
    if bench.device == "cpu":
        parts = [[(Size(8, 4, 5), False), (Size(16, 4, 5), True)]]
    else:
        parts = [
            [(Size(H, B, 200), exact) for H in (64, 128, 256)]
            for B, exact in ((64, False), (512, False), (64, True))
        ]
    for sizes in parts:
        if bench.left < 45 and rows:
            print("out of time: skipping the remaining sizes")
            break
        if bench.device == "cuda":
            started = time.monotonic()
            tasks = [(name, size, exact) for size, exact in sizes for name in cells]
            gpu_layers.compile_all(tasks, min(12, os.cpu_count() or 1))
            print(f"compiled in {time.monotonic() - started:.0f} s")
        for size, exact in sizes:
            graphs = size.H == 64 and size.B == 64 and not exact
            rows += gpu_layers.one_size(cells, size, bench.device, bench.rounds, exact, graphs)
            gpu_layers.print_table([r for r in rows if r["H"] == size.H and r["B"] == size.B])
            bench.figures["layers"] = rows
            bench.save()
    return len(rows)


def epochs(bench: Bench) -> Any:
    """Seconds of a training epoch and its validation, without the first epoch."""
    return {name: epochs_of(bench, name, overrides) for name, overrides in EPOCHS.items()}


def mixed(bench: Bench) -> Any:
    """The same in bf16."""
    bf16 = "trainer.precision=bf16-mixed"
    return {
        name: epochs_of(bench, f"{name}_bf16", [f"model={name}", bf16])
        for name in ("lstm", "custom_gru")
    }


def epochs_of(bench: Bench, name: str, overrides: list[str]) -> dict[str, Any]:
    path = bench.train(f"epoch_{name.replace('/', '_')}", *overrides, "trainer.max_epochs=4")
    metrics = json.loads((path / "metrics.json").read_text("utf-8"))
    seconds = [epoch["seconds"] for epoch in metrics["epochs"]]
    found = {
        "epochs": seconds,
        "median": statistics.median(seconds[1:]),
        "tokens_per_second": metrics.get("tokens_per_second"),
        "seconds": metrics["seconds"],
        "val_acc": [epoch["val/acc"] for epoch in metrics["epochs"]],
        "train_loss": [epoch["train/loss"] for epoch in metrics["epochs"]],
    }
    print(name, found, flush=True)
    return found


def same_bits(first: Path, second: Path) -> bool:
    """True if two runs have the same weights and the same epochs."""
    weights = [read_state_dict(Run(path).last) for path in (first, second)]
    return weights[0].keys() == weights[1].keys() and all(
        torch.equal(weights[0][key], weights[1][key]) for key in weights[0]
    )


def repeats(bench: Bench) -> Any:
    """Two runs give the same bits, and so does one that was killed and resumed."""
    every = "checkpoint.every_steps=2" if bench.device == "cpu" else "checkpoint.every_steps=50"
    models = ("custom_gru", "lstm")
    found = {}
    with ThreadPoolExecutor(2 if bench.device == "cpu" else 6) as pool:  # nothing is timed here
        runs = {}
        for name in models:
            overrides = [f"model={name}", "trainer.max_epochs=2", every]
            runs[name] = [
                pool.submit(kill_and_resume, bench, f"killed_{name}", overrides),
                *(pool.submit(bench.train, f"repeat_{name}_{i}", *overrides) for i in range(2)),
            ]
        for name in models:
            killed, first, second = (run.result() for run in runs[name])
            found[f"{name}: twice the same bits"] = same_bits(first, second)
            found[f"{name}: killed and resumed"] = same_bits(first, killed)
            print(found, flush=True)
    return found


def kill_and_resume(bench: Bench, name: str, overrides: list[str]) -> Path:
    """kill -9 after a checkpoint within the first epoch, then resume; the directory."""
    path = bench.folder / "runs" / name
    shutil.rmtree(path, ignore_errors=True)
    command = [sys.executable, "-m", "imdb_lightning", *bench.overrides(*overrides)]
    process = subprocess.Popen(
        [*command, f"hydra.run.dir={path}"], cwd=CHECKOUT, stdout=subprocess.DEVNULL
    )
    last = path / "checkpoints" / "last.ckpt"
    try:
        while process.poll() is None and not last.exists():
            if bench.left < 5:
                raise OutOfTimeError
            time.sleep(0.02)
        time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    if json.loads((path / "metrics.json").read_text("utf-8"))["status"] == "done":
        raise RuntimeError("the run was done before it could be killed")
    bench.command(f"resume={path}")
    return path


def grid(bench: Bench) -> Any:
    """The report's seven runs with five seeds, several at a time on one card."""
    if bench.left < 60 and bench.device == "cuda":
        raise OutOfTimeError
    path = bench.folder / "report"
    shutil.rmtree(path, ignore_errors=True)
    started = time.monotonic()
    at_once = 2 if bench.device == "cpu" else 12
    seeds = "seed=0" if bench.device == "cpu" else "seed=0,1,2,3,4"
    bench.command(
        "-m",
        *bench.overrides("experiment=glob(report/*)", seeds),
        *("hydra/launcher=local_pool", f"hydra.launcher.n_jobs={at_once}"),
        f"hydra.sweep.dir={path}",
    )
    seconds = time.monotonic() - started
    runs = [json.loads(file.read_text("utf-8")) for file in sorted(path.rglob("metrics.json"))]
    accuracies: dict[str, list[float]] = {}
    for run in runs:
        accuracies.setdefault(run["model"], []).append(run["test/acc"])
    return {"seconds": seconds, "runs": len(runs), "test_acc": accuracies}


STAGES = {
    "layers": layers,
    "epochs": epochs,
    "mixed": mixed,
    "repeats": repeats,
    "tests": tests,
    "grid": grid,
}


def gpu(
    device: str, minutes: float, folder: Path, rounds: int, stages: list[str]
) -> dict[str, Any]:
    """Run the stages and return their figures, which are in folder/gpu.json after each stage."""
    bench = Bench(device, minutes, folder, rounds)
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        bench.figures |= {
            "card": properties.name,
            "processors": properties.multi_processor_count,
            "torch": torch.__version__,
            "triton": version("triton") if find_spec("triton") else None,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        print({k: v for k, v in bench.figures.items() if k != "stages"}, flush=True)
    return bench.run({name: STAGES[name] for name in stages})
