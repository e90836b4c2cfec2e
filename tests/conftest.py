"""Shared by all tests: the environment they see, small data, and a way to compose and to train."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import lightning
import pyarrow
import pyarrow.parquet
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from imdb_lightning.config import overrides
from imdb_lightning.config.overrides import check_command_line
from imdb_lightning.train import train


REAL = os.environ.get("IMDB_DATA")

# New processes of Python with PyTorch and Lightning imported already.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["imdb_lightning.train", "imdb_lightning.runs.checkpoint"])

# For what is built while tests are collected; removed when they end.
CACHE = tempfile.TemporaryDirectory(prefix="imdb_lightning-")
os.environ["IMDB_LIGHTNING_CACHE"] = CACHE.name

# Configurations are composed hundreds of times from files that no test changes.
overrides._base = cache(overrides._base)

# Small tensors are fastest on one thread, even if other work shares the cores.
THREADS = "1"
torch.set_num_threads(int(THREADS))

# Smaller and faster than experiment=smoke.
TINY = (
    "data=synthetic data.train_size=64 data.val_size=16 data.test_size=16 data.max_length=60 "
    "data.batch_size=8 data.cache_dir=null model.embedding_size=8 model.hidden_size=8 "
    "trainer=cpu trainer.max_epochs=2"
).split()


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's reviews, cache or hub, or writes into the project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMDB_DATA", raising=False)
    monkeypatch.setenv("IMDB_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", THREADS)


NOT_TESTED = "NOT TESTED: "


def not_tested(what: str) -> NoReturn:
    """Skip a test that this machine does not permit; the summary has a section about it."""
    pytest.skip(f"{NOT_TESTED}{what}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [str(report.longrepr[-1]) for report in terminalreporter.stats.get("skipped", [])]
    lines = [text.partition(NOT_TESTED)[2] for text in reasons if NOT_TESTED in text]
    if lines:
        terminalreporter.section("NOT TESTED on this machine", sep="!", red=True, bold=True)
        for line in sorted(set(lines)):
            terminalreporter.line(f"{lines.count(line)} tests: {line}", red=True)


@pytest.fixture
def real_data() -> Iterator[str]:
    if REAL is None or not Path(REAL).exists():
        pytest.skip("IMDB_DATA does not name the real reviews")
    yield REAL


def environment(folder: Path) -> dict[str, str]:
    """The environment of a command with its cache and hub in `folder`: no reviews, no network."""
    variables = {name: value for name, value in os.environ.items() if name != "IMDB_DATA"}
    return variables | {
        "IMDB_LIGHTNING_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": THREADS,
    }


def python(
    folder: Path, *arguments: object, timeout: int = 300, stdin: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in `folder`, with these environment variables beside the tests' own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment(folder) | variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def command(
    folder: Path,
    *arguments: object,
    module: str = "",
    timeout: int = 300,
    stdin: bytes = b"",
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """`python -m imdb_lightning[.MODULE] ARGUMENTS` in `folder`, as a user would run it.

    From the fork server, unless environment variables are given, which a library may read when it
    is imported, or joblib starts the runs, which hangs there.
    """
    name = f"imdb_lightning.{module}" if module else "imdb_lightning"
    if variables or "hydra/launcher=joblib" in arguments:
        return python(folder, "-m", name, *arguments, timeout=timeout, **variables)
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as pipes:
        files = [Path(pipes, name) for name in ("stdin", "stdout", "stderr")]
        files[0].write_bytes(stdin)
        process = SERVER.Process(
            target=run_module, args=(folder, name, words, files, environment(folder))
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        output, errors = (file.read_text("utf-8", "replace") for file in files[1:])
        assert process.exitcode is not None
        return subprocess.CompletedProcess(words, process.exitcode, output, errors)


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`python -m imdb_lightning ARGUMENTS` in `folder`, not waited for."""
    return subprocess.Popen(
        [sys.executable, "-m", "imdb_lightning", *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_module(
    folder: Path,
    name: str,
    arguments: Sequence[str],
    files: Sequence[Path],
    variables: Mapping[str, str],
) -> None:
    """Runs the module `name` as a program, in a process of the fork server.

    `files` are its standard input, output and error; `variables` its environment.
    """
    modes = (os.O_RDONLY, *(os.O_WRONLY | os.O_CREAT | os.O_APPEND,) * 2)
    for number, (file, mode) in enumerate(zip(files, modes, strict=True)):
        os.dup2(os.open(file, mode, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False)
        for number, mode in enumerate(("r", "w", "w"))
    )
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    torch.set_num_threads(int(THREADS))
    sys.argv = [name, *arguments]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends a process without them


def composed(*overrides: str) -> DictConfig:
    """The configuration of these overrides, which must be correct."""
    line = check_command_line(overrides)
    assert line.errors == []
    (cfg,) = line.jobs
    return cfg


def plain_trainer(folder: Path, **options: Any) -> lightning.Trainer:
    """Lightning's Trainer on the CPU, without what a run has besides."""
    return lightning.Trainer(
        accelerator="cpu",
        deterministic=True,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def write_parquet(folder: Path, **columns_of: dict[str, list]) -> Path:
    """train-*.parquet and test-*.parquet with these columns: the hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, columns in columns_of.items():
        table = pyarrow.table(columns)
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


def some_reviews(count: int, offset: int = 0) -> dict[str, list]:
    """`count` different reviews, every other one positive, as parquet columns."""
    words = ("awful film", "lovely film")
    numbers = range(offset, offset + count)
    return {
        "text": [f"A {words[n % 2]}, number {n}. <br /> I saw it {n} times!" for n in numbers],
        "label": [n % 2 for n in numbers],
    }


def run_of(path: Path, *overrides: str, tiny: Sequence[str] = TINY) -> Path:
    """A run in `path`, trained here, with the configuration beside it that Hydra would write."""
    cfg = composed(*tiny, *overrides)
    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, path / ".hydra" / "config.yaml")
    train(cfg, path)
    return path
