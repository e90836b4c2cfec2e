"""Faults of real machines: full disks, NaN, corrupt files, secrets.

pytest tests/reliability/test_faults.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imdb_lightning import load
from imdb_lightning.runs.run import Run
from imdb_lightning.train import train
from tests.conftest import (
    TINY,
    composed,
    environment,
    not_tested,
    python,
    run_of,
    some_reviews,
    write_parquet,
)
from tests.conftest import command as fresh_command

from .processes import SMALL, command, differences, output_of, run


pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fork server is POSIX's")


# Disks


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """No file may grow beyond 300 kB, but the first checkpoints are there."""
    path = run(tmp_path, *SMALL, "trainer.max_epochs=1")
    before = (path / "checkpoints" / "last.ckpt").read_bytes()
    limit = len(before) // 2
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "sys.argv = ['imdb_lightning', 'resume=run', 'trainer.max_epochs=2']\n"
        "from imdb_lightning.__main__ import main; main()"
    )
    done = python(tmp_path, "-c", code)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "Errno" in line]
    assert "File too large" in line and "MB to write" in line and "MB free" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert (path / "checkpoints" / "last.ckpt").read_bytes() == before
    assert Run(path).metrics["status"] == "failed"
    assert list(path.rglob("*.tmp")) == []
    assert command(tmp_path, "resume=run", "trainer.max_epochs=2") == 0  # there is room again
    uninterrupted = run(tmp_path / "uninterrupted", *SMALL, "trainer.max_epochs=2")
    assert differences(uninterrupted, path) == []


def mounted(tmp_path: Path, options: str, *arguments: str) -> tuple[int, str, float]:
    """A run on its own tmpfs with these options; not tested if none may be mounted."""
    script = 'mount -t tmpfs -o "$1" none "$2" || exit 77; shift 2; exec "$@"'
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    if shutil.which("unshare") is None:
        not_tested("a full and a read-only disk: there is no unshare")
    started = time.monotonic()
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", options, str(place)]
        + [sys.executable, "-m", "imdb_lightning", *arguments, f"hydra.run.dir={place}/run"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 77 or "unshare: " in done.stderr:
        not_tested("a full and a read-only disk: no file system may be mounted")
    return done.returncode, done.stdout + done.stderr, time.monotonic() - started


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    code, output, _ = mounted(tmp_path, "size=300k", *TINY, "model.hidden_size=32")
    assert code == 1
    assert (
        "No space left on device" in output
        and "MB to write" in output
        and "Traceback" not in output
    )


def test_a_read_only_disk_is_reported_at_once(tmp_path: Path) -> None:
    code, output, seconds = mounted(tmp_path, "ro", *TINY)
    assert code == 2
    assert output.strip().endswith(
        "Read-only file system; a run needs a directory that it can write to"
    )
    assert len(output.splitlines()) == 1
    assert seconds < 20  # 0.6 s measured; a loaded machine may take longer


@pytest.mark.parametrize("place", ["file/run", "/proc/run"])
def test_an_unwritable_directory_is_reported_before_anything_is_read(
    place: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file")
    before = sorted(tmp_path.rglob("*"))
    code = (
        "import sys; sys.argv = ['imdb_lightning', *sys.argv[1:]]\n"
        "from imdb_lightning.__main__ import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    done = python(tmp_path, "-c", code, *TINY, f"hydra.run.dir={place}")
    assert done.returncode == 2
    assert done.stdout.split() == ["False"]  # not even PyTorch was imported: that takes seconds
    assert len(done.stderr.splitlines()) == 1 and "a run needs a directory" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_without_a_temporary_folder_it_trains(tmp_path: Path) -> None:
    done = fresh_command(tmp_path, *TINY, "model=custom_lstm", TMPDIR="/proc/nowhere")
    assert done.returncode == 0, done.stderr


# Damaged reviews


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_corrupt_parquet_file_is_one_line(tmp_path: Path, damage: str) -> None:
    folder = write_parquet(tmp_path / "data", train=some_reviews(60), test=some_reviews(20, 100))
    file = folder / "train-00000-of-00001.parquet"
    content = bytearray(file.read_bytes())
    content[10:60] = bytes(50)
    spoiled = {"cut": bytes(content[:200]), "flipped": bytes(content), "empty": b""}[damage]
    file.write_bytes(spoiled)
    options = [t for t in TINY if not t.startswith(("data=", "data.train", "data.test"))]
    code = command(tmp_path, *options, "data.path=data", "hydra.run.dir=run")
    assert code in (1, 2)
    complaints = [line for line in output_of(tmp_path).splitlines() if file.name in line]
    assert len(complaints) == 1 and "unreadable parquet" in complaints[0], output_of(tmp_path)
    assert "Traceback" not in output_of(tmp_path), output_of(tmp_path)
    assert file.read_bytes() == spoiled


@pytest.mark.slow
def test_a_corrupt_cache_is_never_trained_on(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data", train=some_reviews(60), test=some_reviews(20, 100))
    options = [t for t in TINY if not t.startswith(("data=", "data.train", "data.test"))]
    options = [t for t in options if "cache_dir" not in t] + ["data.path=data"]
    assert command(tmp_path, *options, "data.cache_dir=kept", "hydra.run.dir=first") == 0
    (tokens,) = (tmp_path / "kept").glob("*/train-tokens.npy")
    content = bytearray(tokens.read_bytes())
    content[-1] ^= 1
    tokens.write_bytes(content)
    assert command(tmp_path, *options, "data.cache_dir=kept", "hydra.run.dir=second") == 0
    assert "is corrupt: encoding the reviews again" in output_of(tmp_path)
    assert differences(tmp_path / "first", tmp_path / "second") == []


# Numbers


CELL = '''
import torch
from imdb_lightning import RNNCell


class Steep(RNNCell):
    """The root of 0: a finite value with a gradient that is not."""

    def forward(self, x_BI, state):
        (h_BH,) = super().forward(x_BI, state)
        return (h_BH + torch.sqrt(0 * h_BH.detach() + self.bias_hh.sum() * 0),)
'''


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        (["optim.lr=1e30"], "nan"),
        pytest.param(
            ["model=custom_rnn", "model.cell._target_=steep.Steep"], "0.", marks=pytest.mark.slow
        ),
    ],
    ids=["a loss", "gradients"],
)
def test_non_finite_numbers_stop_the_run_before_the_weights(
    options: list[str], loss: str, tmp_path: Path
) -> None:
    (tmp_path / "steep.py").write_text(CELL)
    done = fresh_command(tmp_path, *TINY, *options, "hydra.run.dir=run")
    output = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in output, output
    path = tmp_path / "run"
    details = json.loads((path / "non_finite.json").read_text("utf-8"))
    assert details["loss"].startswith(loss) and details["gradient_norm"] in ("nan", "inf")
    assert details["step"] == details["batch"] <= 2 and details["epoch"] == 1
    assert len(details["reviews"]) == 8 and details["lr"] == (1e30 if loss == "nan" else 1e-3)
    metrics = Run(path).metrics
    assert metrics["status"] == "failed" and metrics["epochs"] == []
    assert metrics["error"].startswith(f"NonFiniteError: step {details['step']} (epoch 1, batch ")
    assert not (path / "checkpoints" / "best.ckpt").exists()


@pytest.mark.slow
def test_a_loss_on_val_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    """One step, after which the weights are finite and their logits are not."""
    options = ["optim.lr=1e30", "+trainer.limit_train_batches=1", "hydra.run.dir=run"]
    done = fresh_command(tmp_path, *TINY, *options)
    assert done.returncode == 1
    assert "epoch 1: the loss on val is nan" in done.stdout
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    assert Run(tmp_path / "run").metrics["epochs"] == []


def test_an_unbounded_loss_does_not_stop_a_run(tmp_path: Path) -> None:
    options = ["model=custom_lstm", "model.loss=nll_on_raw_logits", "trainer.max_epochs=6"]
    metrics = train(composed(*TINY, *options, "optim.lr=0.1"), tmp_path / "run")
    assert metrics["status"] == "done" and metrics["epochs"][-1]["train/loss"] < -100


@pytest.mark.parametrize("batches", [1, 3])
def test_accumulated_gradients_are_clipped(batches: int, tmp_path: Path) -> None:
    """Adam's first moment after one step is a tenth of the gradient that it saw."""
    options = [f"+trainer.accumulate_grad_batches={batches}", "trainer.gradient_clip_val=1e-3"]
    limit = [f"+trainer.limit_train_batches={batches}", "trainer.max_epochs=1"]
    path = run_of(tmp_path / "run", *options, *limit)
    checkpoint = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    moments = [s["exp_avg"] for s in checkpoint["optimizer_states"][0]["state"].values()]
    norm = torch.cat([m.flatten() for m in moments]).norm().item()
    assert norm == pytest.approx(1e-4, rel=1e-3)


# One process, several runs


def test_a_run_restores_the_state_of_the_process(tmp_path: Path) -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    variables, threads = dict(os.environ), torch.get_num_threads()
    train(composed(*TINY, "trainer.precision=64-true"), tmp_path / "run")
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert dict(os.environ) == variables and torch.get_num_threads() == threads


@pytest.mark.slow
def test_one_run_of_a_grid_never_changes_the_next(tmp_path: Path) -> None:
    grid = ["-m", *SMALL, "hydra/launcher=basic", "hydra.sweep.dir=grid"]
    assert command(tmp_path, *grid, "trainer.deterministic=true,false", "seed=5,6") == 0
    single = run(tmp_path / "single", *SMALL, "trainer.deterministic=false", "seed=6")
    runs = [Run(file.parent) for file in (tmp_path / "grid").glob("*/metrics.json")]
    (last,) = [
        run.path for run in runs if run.config.seed == 6 and not run.config.trainer.deterministic
    ]
    assert len(runs) == 4
    assert differences(single, last) == []


def test_loading_and_predicting_do_not_change_random_state(tmp_path: Path) -> None:
    path = run_of(tmp_path / "run", "model.dropout=0.5")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load(path).predict(["a film", "another film"])
    assert torch.equal(torch.rand(3), expected)


# Secrets and shells


@pytest.mark.slow
def test_secrets_of_the_environment_are_written_nowhere(tmp_path: Path) -> None:
    canary = "canary-5e2f"
    variables = ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"]
    secrets: dict[str, Any] = dict.fromkeys(variables, canary)
    done = fresh_command(tmp_path, "-m", *TINY, "seed=0", "hydra.verbose=true", **secrets)
    assert done.returncode == 0, done.stderr
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "metrics.json" for file in files)
    assert [file for file in files if canary.encode() in file.read_bytes()] == []
    assert canary not in done.stdout + done.stderr


@pytest.mark.slow
def test_no_shell_reads_an_override(tmp_path: Path) -> None:
    options = ["-m", *TINY, "seed=0", "model.name='$(touch canary); touch canary #'"]
    assert command(tmp_path, *options) == 0, output_of(tmp_path)
    assert not list(tmp_path.rglob("canary"))
