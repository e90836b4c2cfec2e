"""The wheel: conf/ is inside, and it runs from anywhere, also from a folder with spaces.

pytest tests/test_install.py -m slow    (builds the wheel, which may fetch hatchling)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import TINY, environment


ROOT = Path(__file__).parent.parent

VULNERABLE_VERSIONS = {  # the last version with it
    "torch": "2.9.1",  # CVE-2026-24747: memory corruption under weights_only
    "lightning": "2.6.3",  # 2.6.2 and 2.6.3 carried malware
    "hydra-core": "1.3.7",  # CVE-2026-68508
    "pyarrow": "23.0.0",  # CVE-2026-25087
    "filelock": "3.20.2",  # CVE-2025-68146, CVE-2026-22701
    "tqdm": "4.66.2",  # CVE-2024-34062
    "jinja2": "3.1.5",  # CVE-2025-27516
    "onnx": "1.20.1",  # CVE-2026-28500, CVE-2026-34445, CVE-2026-27489
    "starlette": "1.3.0",  # CVE-2025-62727, CVE-2026-48710, CVE-2026-54283
}


def test_no_version_that_is_allowed_is_vulnerable_that_was_known() -> None:
    """As of 2026-11; `make audit` asks for those that have come since."""
    asked = [Requirement(text) for text in requires("imdb-lightning") or []]
    ranges = {requirement.name: requirement.specifier for requirement in asked}
    assert {
        name for name, version in VULNERABLE_VERSIONS.items() if version in ranges[name]
    } == set()


def test_make_board_starts_tensorboard_for_this_machine_alone(tmp_path: Path) -> None:
    # The environment of these tests takes the place of .venv, and port 0 is any free one.
    folder = Path(sys.executable).parent
    if not (folder / "tensorboard").exists():
        pytest.skip("the environment has no tensorboard command")
    command = ["make", "board", f"BIN={folder}", "READY=", "PORT=0", f"ARGS={tmp_path}"]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as board:
        try:
            assert board.stderr is not None
            lines = []
            for line in board.stderr:
                lines.append(line)
                if "http://" in line:
                    break
            address = re.search(r"http://[^ ]+", lines[-1])
            assert address is not None, lines
            assert address[0].startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address[0], timeout=20) as page:
                assert b"TensorBoard" in page.read()
        finally:
            os.killpg(board.pid, signal.SIGKILL)


@pytest.mark.slow
def test_the_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "wheel", ROOT], check=True)
    (wheel,) = (tmp_path / "wheel").iterdir()
    place = tmp_path / "installed here"
    subprocess.run([*pip, "install", "--no-deps", "--target", place, wheel], check=True)

    work = tmp_path / "work with spaces"
    work.mkdir()
    variables = environment(tmp_path) | {"PYTHONPATH": str(place)}  # before the editable install
    where = "from imdb_lightning.config.paths import conf_dir; print(conf_dir())"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=work, env=variables, capture_output=True, text=True
    )
    assert found.stdout.strip() == str(place / "imdb_lightning" / "conf")
    subprocess.run(
        [sys.executable, "-m", "imdb_lightning", *TINY], cwd=work, env=variables, check=True
    )
    (run,) = (work / "outputs").iterdir()
    assert (run / "metrics.json").exists()
    script = place / "bin" / "imdb-lightning"
    done = subprocess.run([script, "--cfg", "job"], cwd=work, env=variables, capture_output=True)
    assert done.returncode == 0
