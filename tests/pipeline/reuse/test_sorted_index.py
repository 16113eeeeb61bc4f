"""The index finds each hash that the parts have, and no other, however it is cut and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.pipeline.reuse import sorted_index as hashes
from embedmill.pipeline.reuse.sorted_index import as_halves, entries_of, find, known, write_index
from embedmill.pipeline.store.output import Store, open_store

ROWS, PARTS = 5000, 7


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def inputs(rows: int, seed: int = 0) -> list[bytes]:
    return [bytes(row) for row in np.random.default_rng(seed).integers(0, 256, (rows, 16), "u1")]


def write_parts(store: Store, values: list[bytes]) -> list[str]:
    """The hashes spread over parts with several row groups."""
    paths = []
    for n, some in enumerate(np.array_split(np.arange(len(values)), PARTS)):
        path = store.root / f"data/{n}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        column = pa.array([values[row] for row in some], pa.binary(16))
        pq.write_table(pa.table({"input_hash": column}), path, row_group_size=100)
        paths.append(f"data/{n}.parquet")
    return paths


def places(values: list[bytes]) -> dict[bytes, tuple[int, int]]:
    """Where each hash is first."""
    found: dict[bytes, tuple[int, int]] = {}
    for part, some in enumerate(np.array_split(np.arange(len(values)), PARTS)):
        for row, at in enumerate(some):
            found.setdefault(values[at], (part, row))
    return found


@pytest.mark.parametrize("segment", [1 << 22, 700])
@pytest.mark.parametrize(("block", "near", "at_once"), [(256, 10, 1 << 20), (4, 0, 64), (1, 1, 8)])
def test_every_hash_is_found_where_it_is_first(
    store: Store, monkeypatch: pytest.MonkeyPatch, segment: int, block: int, near: int, at_once: int
) -> None:
    """In one object or in many, read whole or by blocks; hashes with an equal half among them."""
    for name, value in zip(
        ("SEGMENT", "BLOCK", "NEAR", "AT_ONCE"), (segment, block, near, at_once), strict=True
    ):
        monkeypatch.setattr(hashes, name, value)
    there = inputs(ROWS)
    there[100:140] = [there[99][:8] + bytes(7) + bytes([n]) for n in range(40)]
    there[4000:4100] = there[:100]
    paths = write_parts(store, there)

    segments = write_index(store, "_embed/reuse/x", entries_of(store, paths, False), ROWS)

    assert len(segments) == (1 if segment > ROWS else 8)
    assert ROWS - 100 == sum(count for _, count in segments)
    assert sorted(name for name, _ in segments) == list(store.list("_embed/reuse"))
    wanted = [*inputs(50, seed=1), *there[60:300], *there[3990:4010], bytes(16), b"\xff" * 16]
    wanted = list(dict.fromkeys(wanted))
    where = places(there)
    expected = sorted((where[v], n) for n, v in enumerate(wanted) if v in where)
    found = find(store, segments, as_halves(wanted))
    assert expected == sorted(((part, row), n) for n, part, row in found.tolist())
    assert [value in where for value in wanted] == known(
        store, paths, False, as_halves(wanted)
    ).tolist()


def test_only_blocks_that_may_have_a_hash_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hash of many: its block, or two where it may begin one."""
    there = inputs(200_000)
    paths = write_parts(store, there)
    segments = write_index(store, "_embed/reuse/x", entries_of(store, paths, False), len(there))
    read: list[int] = []
    joined = hashes._candidates

    def counted(*arguments: object) -> object:
        for some in joined(*arguments):
            read.append(len(some))
            yield some

    monkeypatch.setattr(hashes, "_candidates", counted)
    assert 1 == len(find(store, segments, as_halves(there[7:8])))
    assert sum(read) <= 2 * hashes.BLOCK


def test_parts_that_are_gone_or_broken_have_no_entries(store: Store) -> None:
    there = inputs(70)
    paths = write_parts(store, there)
    (store.root / paths[0]).unlink()
    (store.root / paths[1]).write_bytes(b"PAR1 no")

    segments = write_index(store, "_embed/reuse/x", entries_of(store, paths, False), 70)

    found = find(store, segments, as_halves(there))
    assert list(range(20, 70)) == sorted(found[:, 0].tolist())


def test_an_empty_index_finds_nothing(store: Store) -> None:
    segments = write_index(store, "_embed/reuse/x", iter(()), 0)
    assert 0 == len(find(store, segments, as_halves(inputs(3))))
