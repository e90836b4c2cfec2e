"""Where the configuration files are, and absolute paths."""

from __future__ import annotations

import os
from pathlib import Path


def conf_dir() -> Path:
    """conf/ inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise SystemExit("imdb_lightning: conf/ is neither in the package nor beside it; reinstall")


def absolute_path(path: str) -> str:
    """The path without ~ and relative parts; symbolic links stay."""
    return os.path.abspath(os.path.expanduser(path))
