"""A cache of encoded reviews on disk: built once, verified at every read."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from .batches import EncodedReviews


ARRAYS = ("tokens", "offsets", "labels", "index")

log = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """The splits as token ids, with their vocabulary and metadata."""

    splits: dict[str, EncodedReviews]
    tokenizer_json: str  # the content of tokenizer.json
    metadata: dict[str, Any]  # plain values for metrics.json


def load_or_build(cache: Path, key: dict[str, Any], build: Callable[[], Encoded]) -> Encoded:
    """The result of `build()`, cached in `cache` under a hash of `key`.

    If several processes start at once, one builds and the others wait for it. An entry whose files
    do not match the hashes in its manifest is removed and built again. If `cache` cannot be
    written, nothing is cached.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    entry = cache / name
    encoded = _read(entry)
    if encoded is not None:
        return encoded
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process is encoding these reviews; waiting for it")
            lock.acquire()
    except OSError as error:
        log.warning("no cache for the encoded reviews (%s): each run encodes them", error)
        return build()
    with lock:
        encoded = _read(entry)
        if encoded is not None:
            return encoded
        if entry.exists():
            log.warning("%s is corrupt: encoding the reviews again", entry)
            shutil.rmtree(entry)
        for left_behind in cache.glob(f"{name}.building-*"):
            shutil.rmtree(left_behind)
        encoded = build()
        _write(entry, cache / f"{name}.building-{os.getpid()}", encoded)
        return encoded


def _write(entry: Path, building: Path, encoded: Encoded) -> None:
    files = {"tokenizer.json": encoded.tokenizer_json.encode()}
    for name, reviews in encoded.splits.items():
        for array in ARRAYS:
            buffer = io.BytesIO()
            np.save(buffer, getattr(reviews, array))
            files[f"{name}-{array}.npy"] = buffer.getvalue()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = {"files": hashes, "metadata": encoded.metadata}
    files["manifest.json"] = json.dumps(manifest, indent=1).encode()
    files["manifest.sha256"] = hashlib.sha256(files["manifest.json"]).hexdigest().encode()
    try:
        building.mkdir()
        for name, content in files.items():
            (building / name).write_bytes(content)
        building.replace(entry)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        log.warning("the encoded reviews could not be cached in %s: %s", entry.parent, error)


def _read(entry: Path) -> Encoded | None:
    """The entry, or None if it is missing, incomplete or corrupt."""
    try:
        manifest_json = (entry / "manifest.json").read_bytes()
        if hashlib.sha256(manifest_json).hexdigest() != (entry / "manifest.sha256").read_text(
            "utf-8"
        ):
            return None
        manifest = json.loads(manifest_json)
        files = {name: (entry / name).read_bytes() for name in manifest["files"]}
    except (OSError, ValueError):
        return None
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest["files"][name]:
            return None
    splits = {}
    for name in sorted({file.split("-")[0] for file in files if file.endswith(".npy")}):
        arrays = {a: np.load(io.BytesIO(files[f"{name}-{a}.npy"])) for a in ARRAYS}
        splits[name] = EncodedReviews(**arrays)
    return Encoded(splits, files["tokenizer.json"].decode(), manifest["metadata"])
