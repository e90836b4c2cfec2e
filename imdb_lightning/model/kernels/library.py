"""C as a loaded library: compiled on first use, kept per user, None where it cannot be.

The file's name in the cache is a hash of the source, the compiler and the processor. Several
processes may start at once: each compiles into a file of its own, which then takes the name whole.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch  # noqa: F401  its thread pool is the library's: it must be in the process first


FOLDER = Path(__file__).parent
HEADERS = (FOLDER / "tiles.h", FOLDER / "run.h")
TIMEOUT = 120  # seconds; it takes one
ARM = platform.machine() in ("aarch64", "arm64")
FLAGS = ["-O3", "-mcpu=native" if ARM else "-march=native"]
FLAGS += ["-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared"]

log = logging.getLogger(__name__)
warn_once = cache(log.warning)


@cache
def load(source: str) -> ctypes.CDLL | None:
    """The library of this C, which may include tiles.h and run.h.

    None, after one warning, where there is none.
    """
    try:
        compiler = find_compiler()
        name = f"cell-{key(compiler, source)}.so"
        kept = cache_folder() / name
        if kept.exists() and is_mine(kept) and is_mine(kept.parent):
            try:
                return ctypes.CDLL(str(kept))
            except OSError:  # damaged: made anew
                pass
        try:
            return build(compiler, source, private_folder() / name)
        except OSError:  # of a cache that is not to be written: for this process alone
            with tempfile.TemporaryDirectory() as own:
                return build(compiler, source, Path(own) / name)
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        warn_once("cells run by PyTorch's operations, without compiled kernels: %s", str(error))
        return None


def cache_folder() -> Path:
    """Where this user's kernels are kept."""
    folder = os.environ.get("IMDB_LIGHTNING_CACHE", "~/.cache/imdb_lightning")
    return Path(os.path.expanduser(folder)) / "kernels"


def private_folder() -> Path:
    """The same, created. Raises OSError where it cannot be, or where others can write there."""
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_mine(folder):
        raise OSError(f"{folder}: others can write there")
    return folder


def is_mine(path: Path) -> bool:
    """Nobody else can have put code there."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def can_compile() -> bool:
    """Whether there is a compiler that works."""
    return load('#include "tiles.h"\n') is not None


def find_compiler() -> list[str]:
    """$CC, or the system's C compiler. Raises RuntimeError where there is none."""
    command = shlex.split(os.environ.get("CC", ""))
    for name in command[:1] or ("cc", "gcc", "clang"):
        if shutil.which(name):
            return command or [name]
    raise RuntimeError("there is no C compiler (cc, gcc, clang or $CC)")


def key(compiler: list[str], source: str) -> str:
    """Changes with the source, the flags, the compiler's version and the processor's features."""
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, timeout=TIMEOUT, check=True
    ).stdout
    content = hashlib.sha256(source.encode())
    for part in (
        *(file.read_bytes() for file in HEADERS),
        version,
        processor().encode(),
        shlex.join([*compiler, *FLAGS]).encode(),
    ):
        content.update(hashlib.sha256(part).digest())
    return content.hexdigest()[:32]


def processor() -> str:
    """Model and features of the first processor, as far as the system tells."""
    told = ("model name", "flags", "Features", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.startswith(told))


def build(compiler: list[str], source: str, target: Path) -> ctypes.CDLL:
    """Compile to `target` and load it. Raises OSError or RuntimeError; leaves nothing half-made."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".cell-", suffix=".so")
    os.close(handle)
    try:
        done = subprocess.run(
            [*compiler, *FLAGS, f"-I{FOLDER}", "-x", "c", "-", "-o", temporary, "-lm"],
            input=source,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["nothing"]
            raise RuntimeError(f"{shlex.join(compiler)} failed: {said[0]}")
        loaded = ctypes.CDLL(temporary)  # before it takes the name: what is kept can be loaded
        os.replace(temporary, target)
        return loaded
    finally:
        Path(temporary).unlink(missing_ok=True)
