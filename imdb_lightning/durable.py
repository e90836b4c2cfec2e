"""Files that are whole or not there, also when the process or the machine stops on the way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Replace `file`, on the disk when this returns; until then the old one stays.

    Raises OSError, which says how much room there is.
    """
    file.parent.mkdir(exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        free = shutil.disk_usage(file.parent).free
        room = f"{len(content) / 1e6:.1f} MB to write, {free / 1e6:.1f} MB free"
        raise OSError(error.errno, f"{error.strerror} ({room})", str(file)) from None
    sync(file.parent)


def sync(folder: Path) -> None:
    """The names in `folder` are on the disk when this returns."""
    if os.name == "nt":  # Windows opens no folders, and needs no such call
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed processes left of their writing. Nobody else may write in `folder`."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink()
