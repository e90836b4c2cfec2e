"""Real loading code on small copies that the tests write: parquet, aclImdb/, the archive, the hub.

pytest tests/data/test_sources.py
"""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from imdb_lightning.data import sources
from imdb_lightning.data.sources import DataError, DataNotFoundError
from tests.conftest import some_reviews, write_parquet


def parquet(folder: Path) -> Path:
    return write_parquet(folder, train=some_reviews(6), test=some_reviews(4, offset=6))


FILES = {
    "train/neg/0_2.txt": b"Bad.",
    "train/neg/10_1.txt": b"Worse.",
    "train/neg/9_3.txt": b"Bad again.",
    "train/pos/0_9.txt": b"Good.",
    "train/pos/1_10.txt": "Caf\u00e9, tr\u00e8s bon.".encode(),
    "test/neg/0_1.txt": b"Worst.",
    "test/pos/0_10.txt": b"",
    "train/unsup/10_0.txt": b"Unlabelled, eleventh.",
    "train/unsup/9_0.txt": b"Unlabelled, tenth.",
    "train/urls_pos.txt": b"http://example.org",
}


def acl_folder(parent: Path) -> Path:
    for name, content in FILES.items():
        file = parent / "aclImdb" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return parent / "aclImdb"


def archive(file: Path, add: Callable[[tarfile.TarFile], None] | None = None) -> str:
    """Write a small aclImdb archive; returns its md5."""
    with tarfile.open(file, "w:gz") as tar:
        for name, content in FILES.items():
            member = tarfile.TarInfo(f"aclImdb/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if add:
            add(tar)
    return hashlib.md5(file.read_bytes()).hexdigest()


def assert_is_acl(splits: dict[str, sources.Reviews]) -> None:
    train, test = splits["train"], splits["test"]
    assert train.texts == ["Bad.", "Bad again.", "Worse.", "Good.", "Caf\u00e9, tr\u00e8s bon."]
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert test.texts == ["Worst.", ""]
    assert test.labels.tolist() == [0, 1]


@pytest.mark.parametrize("inside", ["", "plain_text"])
@pytest.mark.parametrize("name", ["imdb", "with spaces [and] *"])
def test_a_parquet_folder_is_read(tmp_path: Path, inside: str, name: str) -> None:
    parquet(tmp_path / name / inside)
    splits = sources.load(sources.locate(str(tmp_path / name)))
    assert splits["train"].texts == some_reviews(6)["text"]
    assert splits["train"].labels.tolist() == [0, 1] * 3
    assert splits["test"].texts == some_reviews(4, offset=6)["text"]


@pytest.mark.real
def test_the_real_reviews_are_read(real_data: str) -> None:
    splits = sources.load(sources.locate(real_data))
    for reviews in splits.values():
        assert len(reviews.texts) == 25_000
        assert reviews.labels.sum() == 12_500
    for split, reviews in splits.items():
        (file,) = Path(real_data).rglob(f"{split}-*.parquet")
        rows = pyarrow.parquet.read_table(file).to_pydict()
        assert (reviews.texts, reviews.labels.tolist()) == (rows["text"], rows["label"])


@pytest.mark.parametrize("given", [".", "aclImdb"])
def test_an_aclimdb_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path, given: str) -> None:
    acl_folder(tmp_path)
    assert_is_acl(sources.load(sources.locate(str(tmp_path / given))))


def test_the_archive_is_read_like_the_folder(tmp_path: Path) -> None:
    md5 = archive(tmp_path / "aclImdb_v1.tar.gz")
    assert_is_acl(sources.read_archive(tmp_path / "aclImdb_v1.tar.gz", md5))


def assert_has_unsupervised(splits: dict[str, sources.Reviews]) -> None:
    assert set(splits) == {"train", "test", "unsupervised"}
    assert splits["unsupervised"].texts == ["Unlabelled, tenth.", "Unlabelled, eleventh."]
    assert splits["unsupervised"].labels.tolist() == [-1, -1]


def test_unlabelled_reviews_are_read_on_request(tmp_path: Path) -> None:
    folder = acl_folder(tmp_path)
    assert_has_unsupervised(sources.load(folder, unlabelled=True))
    md5 = archive(tmp_path / "aclImdb_v1.tar.gz")
    names = (*sources.SPLITS, sources.UNLABELLED)
    assert_has_unsupervised(sources.read_archive(tmp_path / "aclImdb_v1.tar.gz", md5, names))
    texts = ["Unlabelled, tenth.", "Unlabelled, eleventh."]
    hub = write_parquet(
        tmp_path / "hub",
        train=some_reviews(6),
        test=some_reviews(4, offset=6),
        unsupervised={"text": texts, "label": [-1, -1]},
    )
    assert_has_unsupervised(sources.load(sources.locate(str(hub)), unlabelled=True))
    assert set(sources.load(hub)) == {"train", "test"}


def test_a_dataset_without_unlabelled_reviews_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no unlabelled reviews"):
        sources.load(parquet(tmp_path), unlabelled=True)


def test_a_label_among_the_unlabelled_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path)
    write_parquet(tmp_path, unsupervised={"text": ["a", "b"], "label": [-1, 1]})
    with pytest.raises(DataError, match="parquet, row 2: label '1': must be -1"):
        sources.load(tmp_path, unlabelled=True)


def test_an_archive_with_another_checksum_is_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "aclImdb_v1.tar.gz"
    archive(file)
    assert sources.ARCHIVE_MD5 == "7c2ac02c03563afcf9b574c7e56c153a"
    with pytest.raises(DataError, match="not the official archive"):
        sources.load(sources.locate(str(file)))


def test_an_archive_is_never_extracted(tmp_path: Path) -> None:
    def traps(tar: tarfile.TarFile) -> None:
        for name in (
            "../outside/1_1.txt",
            "/tmp/1_1.txt",
            "aclImdb/train/pos/../../../1_1.txt",
            "aclImdb/train/pos/evil.txt",
            "aclImdb/train/pos/2_9.txt/3_9.txt",
        ):
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"trap!"))
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)):
            member = tarfile.TarInfo(f"aclImdb/train/pos/9{number}_9.txt")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)

    folder = tmp_path / "only"
    folder.mkdir()
    file = folder / "aclImdb_v1.tar.gz"
    md5 = archive(file, traps)
    assert_is_acl(sources.read_archive(file, md5))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["aclImdb_v1.tar.gz", "only"]


def test_data_imdb_in_the_working_directory_is_found() -> None:
    parquet(Path("data/imdb/plain_text"))
    assert sources.locate(None) == Path("data/imdb/plain_text").absolute()


def test_a_given_path_comes_before_data_imdb(tmp_path: Path) -> None:
    parquet(Path("data/imdb"))
    assert sources.locate(str(parquet(tmp_path / "mine"))) == tmp_path / "mine"


@pytest.mark.parametrize("path", ["stanfordnlp/imdb", "imdb", "/no/such/place"])
def test_a_missing_path_is_never_taken_for_a_hub_name(path: str) -> None:
    parquet(Path("data/imdb"))  # nor replaced by another copy
    with pytest.raises(DataNotFoundError, match="no such file or folder"):
        sources.locate(path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="neither train-"):
        sources.locate(str(tmp_path))


def hub_cache(home: Path) -> Path:
    """A snapshot of the dataset as the hub's client keeps it."""
    snapshots = home / "hub" / "datasets--stanfordnlp--imdb" / "snapshots"
    return parquet(snapshots / sources.REVISION / "plain_text")


def use_hub(monkeypatch: pytest.MonkeyPatch, home: Path, **constants: object) -> None:
    """The client reads its environment once, at import: set what it took from there."""
    from huggingface_hub import constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(home / "hub"))
    for name, value in constants.items():
        monkeypatch.setattr(hub, name, value)


def test_the_hubs_cache_is_used_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, tmp_path, HF_HUB_OFFLINE=True)
    snapshot = hub_cache(tmp_path)
    assert sources.locate(None) == snapshot
    assert len(sources.load(snapshot)["train"].texts) == 6


def test_without_any_reviews_the_three_ways_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, tmp_path, HF_HUB_OFFLINE=True)
    with pytest.raises(DataNotFoundError, match="IMDB_DATA or data.path.*data/imdb.*network"):
        sources.locate(None)


@pytest.mark.slow
def test_a_hub_that_does_not_answer_costs_three_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as deaf:  # its queue is full: further connections hang
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(deaf.getsockname())
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        use_hub(monkeypatch, tmp_path, HF_HUB_OFFLINE=False, ENDPOINT=endpoint)
        started = time.perf_counter()
        with pytest.raises(DataNotFoundError, match="no connection to the hub"):
            sources.locate(None)
        assert time.perf_counter() - started < sources.HUB_TIMEOUT + 1
        for client in clients:
            client.close()


def test_a_listening_hub_is_reachable_and_a_closed_port_is_not() -> None:
    with socket.socket() as hub:
        hub.bind(("127.0.0.1", 0))
        hub.listen()
        endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
        assert sources.reachable(endpoint)
    assert not sources.reachable(endpoint)


BROKEN = {
    "no column text or review": {"words": ["a", "b"], "label": [0, 1]},
    "no column label or sentiment": {"text": ["a", "b"], "stars": [0, 1]},
    "row 2: label '2'": {"text": ["a", "b", "c"], "label": [0, 2, 1]},
    "row 1: label '-1'": {"text": ["a", "b"], "label": [-1, 1]},
    "row 2: label 'None'": {"text": ["a", "b"], "label": [0, None]},
    "row 3: text is 'None'": {"text": ["a", "b", None], "label": [0, 1, 1]},
    "all labelled 1": {"text": ["a", "b"], "label": [1, 1]},
    "no reviews": {
        "text": pyarrow.array([], pyarrow.string()),
        "label": pyarrow.array([], "int64"),
    },
}


@pytest.mark.parametrize("complaint", BROKEN)
def test_unusable_reviews_are_refused_in_one_line(tmp_path: Path, complaint: str) -> None:
    write_parquet(tmp_path, train=BROKEN[complaint], test=some_reviews(4))
    with pytest.raises(DataError, match=complaint) as caught:
        sources.load(sources.locate(str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", b"PAR1" * 1000])
def test_a_corrupt_parquet_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (parquet(tmp_path) / "train-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(DataError, match="unreadable parquet") as caught:
        sources.load(sources.locate(str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_second_copy_of_a_shard_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    folder = parquet(tmp_path)
    shard = folder / "train-00000-of-00001.parquet"
    for name in ("train-00000-of-00001 (1).parquet", "train.bak.parquet"):
        shutil.copy(shard, folder / name)
        with pytest.raises(DataError, match="not a shard's name"):
            sources.load(sources.locate(str(folder)))
        (folder / name).unlink()
    for name, expected in (
        ("train-00000-of-00002.parquet", "shards of two kinds"),
        ("train.parquet", "shards of two kinds"),
        ("train-00001-of-00001.parquet", "2 files of train, but 1 shards"),
    ):
        shutil.copy(shard, folder / name)
        with pytest.raises(DataError, match=expected):
            sources.load(sources.locate(str(folder)))
        (folder / name).unlink()
    shard.rename(folder / "train-00000-of-00002.parquet")
    with pytest.raises(DataError, match="1 files of train, but 2 shards"):
        sources.load(sources.locate(str(folder)))


def test_shards_may_differ_in_other_columns(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, test=some_reviews(4))
    for number, more in enumerate([{}, {"stars": [1, 2]}]):
        table = pyarrow.table({"text": ["a", "b"], "label": [0, 1], **more})
        pyarrow.parquet.write_table(table, folder / f"train-0000{number}-of-00002.parquet")
    assert sources.load(sources.locate(str(folder)))["train"].texts == ["a", "b", "a", "b"]


def test_bytes_that_are_not_utf8_are_refused_with_their_place(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "parquet")
    raw = pyarrow.array([b"fine", b"bad \xff byte"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, raw.buffers())
    table = pyarrow.table({"text": text, "label": [0, 1]})
    pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"00001\.parquet: unreadable .*utf-8"):
        sources.load(folder)
    folder = acl_folder(tmp_path)
    (folder / "test" / "neg" / "0_1.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"0_1\.txt: not UTF-8"):
        sources.load(folder)


def test_the_names_of_columns_and_labels_are_those_of_every_file(tmp_path: Path) -> None:
    columns = {"Review": ["a", "b", "c"], "sentiment ": ["negative", "pos", "TRUE"]}
    folder = write_parquet(tmp_path, train=columns, test=some_reviews(4))
    train = sources.load(folder)["train"]
    assert train.texts == ["a", "b", "c"] and train.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("make", [parquet, acl_folder])
def test_the_fingerprint_changes_with_any_review_and_with_nothing_else(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    before = sources.fingerprint(make(tmp_path / "a" / "x"))
    again = make(tmp_path / "b" / "x")
    assert sources.fingerprint(again) == before
    file = next(f for f in sorted(again.rglob("*")) if f.is_file() and f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert sources.fingerprint(again) != before
