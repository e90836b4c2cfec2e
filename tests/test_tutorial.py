"""The tutorial notebook runs from start to end.

pytest -m slow tests/test_tutorial.py
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    root = Path(__file__).parents[1]
    shutil.copy(root / "docs" / "tutorial.ipynb", tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_ALLOW_INSECURE_WRITES", "true")
    notebook = nbformat.read(tmp_path / "tutorial.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = "\n".join(str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code")
    for shown in ("custom_gru on synthetic", "GRU - RNN:", "image/png", "minimal", "tokens/s"):
        assert shown in outputs
    assert (tmp_path / "outputs" / "tutorial" / "minimal" / "metrics.json").exists()
