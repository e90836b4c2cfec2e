"""Atomic, durable file writes: after a crash a file is complete or absent.

torch.save writes a zip archive; a checksum is added as the archive's comment.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
from pathlib import Path


CHECKSUM_PREFIX = b"sha256 "
CHECKSUM_SIZE = len(CHECKSUM_PREFIX) + 64  # bytes


def atomic_write(file: Path, content: bytes) -> None:
    """Replace `file`; when this returns the content is on the disk, until then the old one stays.

    Raises OSError, whose message says how much space there is.
    """
    if not file.parent.exists():
        file.parent.mkdir(exist_ok=True)
        sync_directory(file.parent.parent)
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
    sync_directory(file.parent)


def sync_directory(folder: Path) -> None:
    """When this returns the names in `folder` are on the disk."""
    if os.name == "nt":  # Windows opens no folders, and needs no such call
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale_temp_files(folder: Path) -> None:
    """Remove what killed processes left behind. Nobody else may be writing in `folder`."""
    for temporary in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", temporary.name):
            temporary.unlink()


def add_checksum(archive: bytes) -> bytes:
    """The archive with its SHA-256 as its comment. A zip archive ends with the comment's length."""
    assert archive.endswith(b"\0\0"), "the archive already has a comment"
    return archive[:-2] + struct.pack("<H", CHECKSUM_SIZE) + CHECKSUM_PREFIX + sha256(archive)


def has_checksum(content: bytes) -> bool:
    return content[-CHECKSUM_SIZE:].startswith(CHECKSUM_PREFIX)


def verify_checksum(content: bytes) -> bool:
    """True if the archive has a checksum, and it is correct."""
    archive = content[: -CHECKSUM_SIZE - 2] + b"\0\0"
    return has_checksum(content) and content[-64:] == sha256(archive)


def sha256(archive: bytes) -> bytes:
    return hashlib.sha256(archive).hexdigest().encode()
