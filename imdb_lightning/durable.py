"""Files that are whole or not there, also when the process or the machine stops on the way.

What torch.save writes is a zip archive; sealed, it has its own SHA-256 as its comment.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
from pathlib import Path


SEAL = b"sha256 "
SIZE = len(SEAL) + 64  # bytes of a seal


def write(file: Path, content: bytes) -> None:
    """Replace `file`, on the disk when this returns; until then the old one stays.

    Raises OSError, which says how much room there is.
    """
    if not file.parent.exists():
        file.parent.mkdir(exist_ok=True)
        sync(file.parent.parent)
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
        if re.fullmatch(r"\..+\.\d+\.tmp", temporary.name):
            temporary.unlink()


def seal(archive: bytes) -> bytes:
    """The archive with its hash as its comment. A zip archive ends with the comment's length."""
    assert archive.endswith(b"\0\0"), "there is a comment already"
    return archive[:-2] + struct.pack("<H", SIZE) + SEAL + hashed(archive)


def is_sealed(content: bytes) -> bool:
    return content[-SIZE:].startswith(SEAL)


def is_intact(content: bytes) -> bool:
    """Whether the content has a seal, and it is the content's."""
    archive = content[: -SIZE - 2] + b"\0\0"
    return is_sealed(content) and content[-64:] == hashed(archive)


def hashed(archive: bytes) -> bytes:
    return hashlib.sha256(archive).hexdigest().encode()
