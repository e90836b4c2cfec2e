"""The wheel: conf/ is inside, and it runs from anywhere, also from a folder with spaces.

pytest tests/test_install.py -m slow    (builds the wheel, which may fetch hatchling)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY, environment


ROOT = Path(__file__).parent.parent


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
    where = "import imdb_lightning.config as c; print(c.conf_dir())"
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
