"""Provenance of a result: commit, versions, processor, device, memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from .version import __version__


try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def run_metadata(cfg: DictConfig) -> dict[str, Any]:
    """What metrics.json says about a run before it starts."""
    return {
        "dataset": cfg.data.name,
        "model": cfg.model.name,
        **({"pretrain": cfg.pretrain.name} if "pretrain" in cfg else {}),
        "seed": cfg.seed,
        "test_checkpoint": cfg.test_checkpoint,
        "versions": versions(),
        "git": git_commit(),
    }


def versions() -> dict[str, str]:
    """The versions of Python, this project and the libraries that a result depends on."""
    names = ("torch", "lightning", "hydra-core", "tokenizers")
    return {
        "python": platform.python_version(),
        "imdb-lightning": __version__,  # a checkout may run without an installation
        **{name: version(name) for name in names},
    }


@cache
def git_commit() -> str | None:
    """Commit of the checkout that this code runs from, "-dirty" with changes; None elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processor_name() -> str:
    """The processor's name, or as much as the system reports."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Such as "cpu (2 threads)" or a GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} ({threads} thread{'s' if threads > 1 else ''})"


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes; None if the system does not report it."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
