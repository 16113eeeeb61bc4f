"""An object is created once, whole or not at all, and what goes wrong says what to do."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedmill.pipeline.index.open import absolute
from embedmill.pipeline.store.local import SCRATCH
from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.errors import StorageError
from embedmill.schemas.sinks import Index


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def test_an_object_is_created_once_and_never_replaced(store: Store):
    assert store.create("a/b.json", b"first")
    assert not store.create("a/b.json", b"second")
    assert store.read("a/b.json") == b"first"
    assert store.size("a/b.json") == 5
    assert list(store.list("a")) == ["a/b.json"]


def test_of_eight_writers_that_race_exactly_one_wins_and_its_bytes_stand(store: Store):
    for attempt in range(20):
        barrier = threading.Barrier(8)

        def write(n: int, name: str = f"data/{attempt}", barrier=barrier) -> bool:
            barrier.wait()
            return store.create(name, bytes([n]) * 10_000)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(write, range(8)))
        assert sum(won) == 1
        assert bytes([won.index(True)]) * 10_000 == store.read(f"data/{attempt}")
    assert list(store.list(SCRATCH)) == []


@pytest.mark.parametrize("moment", ["fsync", "link"])
def test_a_writer_survives_a_collector_that_takes_its_scratch_file(
    store: Store, monkeypatch, moment
):
    """Three times in a row, when it is written and when it is about to become the object."""
    real, taken = getattr(os, moment), []

    def collect_first(*args):
        if len(taken) < 3:
            taken.extend(store.list(SCRATCH))
            for name in store.list(SCRATCH):
                store.delete(name)
        return real(*args)

    monkeypatch.setattr(os, moment, collect_first)
    assert store.create("data/f/part", b"x" * 1000)
    assert len(taken) == 3
    assert store.read("data/f/part") == b"x" * 1000
    assert list(store.list(SCRATCH)) == []


def test_scratch_files_of_writers_that_died_are_harmless(store: Store):
    (store.root / SCRATCH).mkdir(parents=True)
    (store.root / SCRATCH / "0123.attempt").write_bytes(b"half a pa")
    store.probe()
    assert store.create("data/a", b"whole")
    assert list(store.list("data")) == ["data/a"]


def test_a_probe_leaves_nothing_behind(store: Store):
    store.probe()
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_what_is_not_there_is_none_or_not_found(store: Store):
    assert store.size("a/b") is None
    assert list(store.list("a")) == []
    store.delete("a/b")
    with pytest.raises(FileNotFoundError):
        store.read("a/b")
    with pytest.raises(FileNotFoundError):
        store.open("a/b")


def test_a_read_is_what_was_written_and_has_its_digest(store: Store):
    import hashlib

    data = bytes(range(256)) * 5000
    store.create("x", data)
    assert data == store.read("x")
    assert data == store.open("x").read()
    assert hashlib.sha256(data).hexdigest() == store.sha256("x")


def test_a_file_where_the_output_should_be_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(StorageError, match="NOT_A_FOLDER") as caught:
            open_store(str(path)).probe()
        assert caught.value.exit_code == 7
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_store_without_a_scheme_of_ours_is_refused():
    with pytest.raises(StorageError, match="STORE_UNSUPPORTED"):
        open_store("ftp://host/out")


def test_a_file_url_is_its_path(tmp_path: Path):
    assert tmp_path == open_store(f"file://{tmp_path}").root


def test_a_read_only_file_system_is_refused_at_once(mount):
    with pytest.raises(StorageError, match="NOT_WRITABLE"):
        open_store(str(mount("ro") / "out")).probe()


def test_a_full_file_system_is_said_to_be_full_and_leaves_no_half_object(mount):
    store = open_store(str(mount("size=256k") / "out"))
    store.probe()
    with pytest.raises(StorageError, match="STORAGE_FULL"):
        store.create("data/big", bytes(1 << 20))
    assert store.size("data/big") is None
    assert list(store.list(SCRATCH)) == []
    assert store.create("data/small", b"still works")


def test_a_part_that_reads_back_differently_is_refused(store: Store, monkeypatch):
    """What a lying disk does cannot be had without pretending."""
    monkeypatch.setattr("embedmill.pipeline.store.local._sha256", lambda path: bytes(32))
    with pytest.raises(StorageError, match="STORE_LIES"):
        store.create("data/a", b"x")
    assert store.size("data/a") is None


def test_a_store_that_replaces_objects_is_found_by_the_probe(store: Store, monkeypatch):
    monkeypatch.setattr(
        "embedmill.pipeline.store.local.os.link", lambda source, target: source.replace(target)
    )
    with pytest.raises(StorageError, match="STORE_LIES"):
        store.probe()


def test_a_tilde_is_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For the output and for a sink, as it is for the input: not a folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for spelled in ("~/vectors", "file://~/vectors"):
        assert open_store(spelled).uri == str(tmp_path / "vectors")
    sink = Index.model_validate({"sink": "faiss", "path": "~/sink"})
    assert absolute(sink).path == str(tmp_path / "sink")
