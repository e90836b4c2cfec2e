"""The sources of the reviews: a local copy in one of three forms, or the Hugging Face hub.

A copy is a folder of parquet files in the hub's layout (train-*.parquet, test-*.parquet, here or in
plain_text/; data/files.py has their columns), an extracted aclImdb folder, or the official
aclImdb_v1.tar.gz. Nothing is ever extracted, and nothing but reviews is read from the archive.
The unlabelled reviews are read only on request.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import tarfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import InputError, label_of, no_label_of, rows
from .labels import NO_LABEL


HUB = "stanfordnlp/imdb"
REVISION = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
ARCHIVE_MD5 = "7c2ac02c03563afcf9b574c7e56c153a"
HUB_TIMEOUT = 3.0  # seconds that the hub has to answer
MAX_REVIEW_BYTES = 16 * 2**20  # bytes of one review; the longest real one has 14 KiB
SPLITS = ("train", "test")
UNLABELLED = "unsupervised"  # the hub's name of the unlabelled split; aclImdb's is train/unsup
CLASSES = ("neg", "pos")  # aclImdb's folders of the labels 0 and 1

THREE_WAYS = (
    "get the reviews in one of three ways: set IMDB_DATA or data.path to a local copy (the hub's "
    "parquet folder, aclImdb/ or aclImdb_v1.tar.gz), put a copy into data/imdb, or connect to the "
    f"network so that {HUB} can be fetched once; or use data=synthetic"
)

log = logging.getLogger(__name__)


class DataError(Exception):
    """The reviews cannot be read: one line that says what, where and what to do instead."""


class DataNotFoundError(DataError):
    """There are no reviews."""


class Reviews(NamedTuple):
    """The reviews of one split in the order of its source."""

    texts: list[str]
    labels: np.ndarray  # int64: 0 negative, 1 positive, -1 unlabelled


def locate(path: str | None, unlabelled: bool = False) -> Path:
    """The dataset to read: `path`, else data/imdb here, else the hub's, downloaded once.

    A path is never looked up on the hub. Raises DataNotFoundError in at most 3 s plus the time of a
    download.
    """
    if path is not None:
        given = Path(os.path.expanduser(path)).absolute()
        if not given.exists():
            raise DataNotFoundError(f"data.path: no such file or folder: {given}; {THREE_WAYS}")
        return _detect_layout(given)
    here = Path("data/imdb").absolute()
    if here.exists():
        return _detect_layout(here)
    return _hub(unlabelled)


def load(root: Path, unlabelled: bool = False) -> dict[str, Reviews]:
    """The official splits "train", "test" and, if asked for, "unsupervised". Raises DataError."""
    names = (*SPLITS, UNLABELLED) if unlabelled else SPLITS
    if root.is_file():
        splits = read_archive(root, names=names)
    elif (root / "train" / "pos").is_dir():
        splits = _read_folder(root, names)
    else:
        splits = _read_parquet(root, names)
    if unlabelled and not splits[UNLABELLED].texts:
        raise DataError(f"{root}: no unlabelled reviews, which data.use_unlabelled=true needs")
    for name in SPLITS:
        reviews = splits[name]
        if len(np.unique(reviews.labels)) < len(CLASSES):
            what = f"all labelled {reviews.labels[0]}" if reviews.texts else "no reviews"
            raise DataError(f"{root}: split {name} has {what}; it must have both labels")
    return splits


def fingerprint(root: Path, names: Sequence[str] = SPLITS) -> str:
    """Hash of every byte that `load` reads for these splits, and of the files' names, which carry
    labels."""
    if root.is_file():
        files = [root]
    elif (root / "train" / "pos").is_dir():
        files = [file for _, _, file in _folder_files(root, names)]
    else:
        files = [file for split in names for file in _parquet_files(root, split)]
    content = hashlib.sha256()
    for file in files:
        content.update(file.relative_to(root).as_posix().encode() + b"\0")
        content.update(_hash(file, "sha256").encode())
    return content.hexdigest()


@cache
def path_fingerprint(path: str | None, names: Sequence[str] = SPLITS) -> str:
    """The fingerprint of the dataset that `data.path` leads to. Raises DataNotFoundError."""
    return fingerprint(locate(path, UNLABELLED in names), names)


def _detect_layout(path: Path) -> Path:
    """`path`, or the folder in it that contains the reviews."""
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz")):
        return path
    for folder in (path, path / "aclImdb", path / "plain_text"):
        if (folder / "train" / "pos").is_dir():
            return folder
        if folder.is_dir() and all(_parquet_files(folder, split) for split in SPLITS):
            return folder
    raise DataNotFoundError(
        f"{path}: neither train-*.parquet and test-*.parquet, nor aclImdb/train/pos, nor a "
        f".tar.gz; {THREE_WAYS}"
    )


# Parquet


def _parquet_files(folder: Path, split: str) -> list[Path]:
    """The split's file or shards, in their order. Raises DataError if they are not exactly one set.

    A second copy of a shard, such as "train-00000-of-00001 (1).parquet", would be read as well.
    """
    files = sorted(f for f in folder.glob("*.parquet") if re.match(rf"{split}\b", f.name))
    name = re.compile(rf"{split}(-(\d+)(-of-(\d+))?(-[0-9a-f]{{16}})?)?\.parquet")
    matches = [(file, name.fullmatch(file.name)) for file in files]
    for file, match in matches:
        if match is None:
            raise DataError(f"{file}: not a shard's name, such as {split}-00000-of-00001.parquet")
    found = [
        (match[2] and int(match[2]), match[4] and int(match[4])) for _, match in matches if match
    ]
    numbers, counts = [n for n, _ in found], {count for _, count in found}
    if files and (len(counts) > 1 or numbers.count(None) not in (0, len(files))):
        raise DataError(f"{folder}: shards of two kinds: {', '.join(f.name for f in files)}")
    (count,) = counts or {None}
    expected = count if count is not None else len(files)
    if len(set(numbers)) != len(files) or len(files) != expected:
        raise DataError(f"{folder}: {len(files)} files of {split}, but {expected} shards")
    return files


def _read_parquet(folder: Path, names: Sequence[str]) -> dict[str, Reviews]:
    splits = {}
    for split in names:
        texts: list[str] = []
        labels: list[int] = []
        for file in _parquet_files(folder, split):
            try:
                for text, label in rows(file, no_label_of if split == UNLABELLED else label_of):
                    texts.append(text)
                    labels.append(label)
            except InputError as error:
                raise DataError(str(error)) from None
        splits[split] = Reviews(texts, np.array(labels, np.int64))
    return splits


# aclImdb


FOLDERS = {  # split, label -> where aclImdb has them
    **{(split, label): f"{split}/{name}" for split in SPLITS for label, name in enumerate(CLASSES)},
    (UNLABELLED, NO_LABEL): "train/unsup",
}


def _read_folder(folder: Path, names: Sequence[str]) -> dict[str, Reviews]:
    files = _folder_files(folder, names)
    contents = ((split, label, str(file), file.read_bytes()) for split, label, file in files)
    return _collect(contents, names)


def _folder_files(folder: Path, names: Sequence[str]) -> list[tuple[str, int, Path]]:
    found = []
    for (split, label), where in FOLDERS.items():
        if split in names:
            files = [f for f in (folder / where).glob("*.txt") if _review_number(f.name)]
            files.sort(key=lambda f: _review_number(f.name) or ())
            found += [(split, label, file) for file in files]
    return found


def _review_number(name: str) -> tuple[int, ...] | None:
    """(number, stars) of a review's file name such as 123_10.txt."""
    match = re.fullmatch(r"(\d+)_(\d+)\.txt", name)
    return (int(match[1]), int(match[2])) if match else None


def read_archive(
    archive: Path, md5: str = ARCHIVE_MD5, names: Sequence[str] = SPLITS
) -> dict[str, Reviews]:
    """The reviews of aclImdb_v1.tar.gz, as a stream. Raises DataError unless `md5` is its hash."""
    found = _hash(archive, "md5")
    if found != md5:
        raise DataError(f"{archive}: md5 {found}, not {md5}: not the official archive, or corrupt")
    part_of = {where: part for part, where in FOLDERS.items() if part[0] in names}
    member_name = re.compile(rf"aclImdb/({'|'.join(part_of)})/(\d+_\d+\.txt)")
    members = []
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            match = member_name.fullmatch(member.name)
            if match is None or not member.isreg() or member.size > MAX_REVIEW_BYTES:
                continue
            content = tar.extractfile(member)
            assert content is not None  # a regular file
            order = (*part_of[match[1]], _review_number(match[2]) or ())
            members.append((order, f"{archive}, {member.name}", content.read()))
    members.sort()
    return _collect(
        ((split, label, name, content) for (split, label, _), name, content in members), names
    )


def _collect(
    files: Iterable[tuple[str, int, str, bytes]], names: Sequence[str]
) -> dict[str, Reviews]:
    """Reviews from (split, label, name of the file, content). Raises DataError."""
    texts: dict[str, list[str]] = {split: [] for split in names}
    labels: dict[str, list[int]] = {split: [] for split in names}
    for split, label, name, content in files:
        try:
            texts[split].append(content.decode())
        except UnicodeDecodeError:
            raise DataError(f"{name}: not UTF-8") from None
        labels[split].append(label)
    return {split: Reviews(texts[split], np.array(labels[split], np.int64)) for split in names}


# The hub


def _hub(unlabelled: bool) -> Path:
    import huggingface_hub

    names = (*SPLITS, UNLABELLED) if unlabelled else SPLITS

    def fetch(local_files_only: bool) -> Path:
        patterns = [f"plain_text/{split}-*.parquet" for split in names]
        folder = huggingface_hub.snapshot_download(
            HUB,
            repo_type="dataset",
            revision=REVISION,
            allow_patterns=patterns,
            local_files_only=local_files_only,
        )
        return _detect_layout(Path(folder))

    try:
        kept = fetch(local_files_only=True)
        if all(_parquet_files(kept, split) for split in names):
            return kept
    except (OSError, ValueError, DataNotFoundError):
        pass  # not in the hub's cache
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise DataNotFoundError(f"no reviews here, and HF_HUB_OFFLINE is set; {THREE_WAYS}")
    if not reachable(huggingface_hub.constants.ENDPOINT):
        raise DataNotFoundError(f"no reviews here, and no connection to the hub; {THREE_WAYS}")
    log.info("fetching %s from the Hugging Face hub, once", HUB)
    try:
        return fetch(local_files_only=False)
    except Exception as error:  # noqa: BLE001  the client raises many kinds, all meaning "no data"
        reason = " ".join(str(error).split())[:200]
        raise DataNotFoundError(
            f"no reviews here, and the download failed ({reason}); {THREE_WAYS}"
        ) from None


def reachable(endpoint: str, timeout: float = HUB_TIMEOUT) -> bool:
    """True if a connection to `endpoint`, or to its proxy, opens within `timeout` seconds."""
    url = urllib.parse.urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (url.hostname or "", url.port or (80 if url.scheme == "http" else 443))
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout).close()
        except OSError:
            return
        connected.set()

    # In a thread, since a name lookup has no timeout.
    probe = threading.Thread(target=connect, daemon=True)
    probe.start()
    probe.join(timeout)
    return connected.is_set()


def _hash(file: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
