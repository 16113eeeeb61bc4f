"""The verbs of an output in S3, GCS and Azure, on real servers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.pipeline.store.objects import open_object
from embedmill.pipeline.store.output import open_store
from embedmill.pipeline.store.probe import prove
from embedmill.schemas.errors import StorageError
from tests.pipeline.store.servers import Place


def test_an_object_is_created_once_and_never_replaced(place: Place):
    store = open_store(place.uri)

    assert store.create("a/b.json", b"first")
    assert not store.create("a/b.json", b"other")
    assert not store.create("a/b.json", b"of another size")
    assert store.read("a/b.json") == b"first"
    assert store.size("a/b.json") == 5
    assert store.sha256("a/b.json") == hashlib.sha256(b"first").hexdigest()
    assert store.where("a/b.json") == f"{place.uri}/a/b.json"


def test_names_are_relative_sorted_and_of_that_folder_only(place: Place):
    store = open_store(f"{place.uri}/")
    for name in ("b/2", "b/1", "b/c/3", "bb/4"):
        assert store.create(name, b"x")

    assert list(store.list("b")) == ["b/1", "b/2", "b/c/3"]
    assert list(store.list("")) == ["b/1", "b/2", "b/c/3", "bb/4"]
    assert list(open_store(f"{place.uri}/b").list("")) == ["1", "2", "c/3"]
    assert list(store.list("nothing")) == []


def test_what_is_not_there_is_none_or_not_found(place: Place):
    store = open_store(place.uri)

    assert store.size("a") is None
    store.delete("a")
    for verb in (store.read, store.open, store.sha256):
        with pytest.raises(FileNotFoundError) as caught:
            verb("a")
        assert str(caught.value).count("\n") == 0
    store.create("a", b"1")
    store.delete("a")
    assert store.size("a") is None


def test_a_parquet_file_of_several_requests_reads_as_it_was_written(place: Place):
    store = open_store(place.uri)
    table = pa.table({"n": range(50_000), "text": [f"word {n}" * 9 for n in range(50_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=9_000, compression="none", write_page_checksum=True)
    data = sink.getvalue()  # signed chars, as pyarrow's buffers are
    assert store.create("table", data)

    assert store.read("table") == data.to_pybytes()
    assert store.sha256("table") == hashlib.sha256(data).hexdigest()
    with store.open("table") as file:
        assert pq.ParquetFile(file, page_checksum_verification=True).read().equals(table)
    with open_object(store.where("table"), keep=True) as file:
        assert pq.ParquetFile(file).read(["text"]).equals(table.select(["text"]))


def test_creating_it_again_with_equal_bytes_is_ones_own_lost_answer(place: Place):
    """Bytes above 127, in a buffer of signed chars, equal those that are read back."""
    data = pa.py_buffer(bytes(range(256)))
    assert open_store(place.uri).create("a", data)
    assert open_store(place.uri).create("a", data)


def test_of_eight_writers_that_race_exactly_one_wins_and_its_bytes_stand(place: Place):
    store = open_store(place.uri)
    barrier = threading.Barrier(8)

    def write(n: int) -> bool:
        barrier.wait()
        return store.create("raced", bytes([n]) * 300_000)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert sum(won) == 1
    assert store.read("raced") == bytes([won.index(True)]) * 300_000


def test_a_probe_says_atomic_and_leaves_nothing_behind(place: Place):
    store = open_store(place.uri)

    assert store.probe() == "atomic"
    assert list(store.list("")) == []


def test_a_store_that_replaces_objects_is_refused_with_its_reason(bucket: Callable[[str], Place]):
    store = open_store(bucket("lying").uri)

    with pytest.raises(StorageError, match="STORE_LIES.*replaces an object.*none") as caught:
        store.probe()
    assert caught.value.exit_code == 7
    assert "output.single_writer" in str(caught.value)
    assert list(store.list("")) == []
    assert store.probe(single_writer=True) == "none"


class Hesitant:
    """A store that looks first and writes then: what only a race shows."""

    def __init__(self) -> None:
        self.uri, self.there = "s3://hesitant", {}
        self.together = threading.Barrier(8)

    def create(self, name: str, data: bytes) -> bool:
        taken = name in self.there
        if not name.endswith("-0"):
            self.together.wait()  # all of a race have looked
        return False if taken else self.there.setdefault(name, data) is not None

    def delete(self, name: str) -> None:
        self.there.pop(name, None)


def test_a_store_that_looks_first_and_writes_then_is_found_by_the_race():
    with pytest.raises(StorageError, match="STORE_LIES.*several writers.*advisory"):
        prove(Hesitant(), single_writer=False)
    assert prove(Hesitant(), single_writer=True) == "advisory"


def test_a_store_without_conditions_can_be_used_by_a_single_writer_who_says_so(
    bucket: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
):
    store = open_store(bucket("s3").uri)
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")

    assert store.create("a", b"first")
    assert not store.create("a", b"other")
    assert store.read("a") == b"first"
    with pytest.raises(StorageError, match="STORE_LIES.*advisory"):
        store.probe()
    assert store.probe(single_writer=True) == "advisory"
