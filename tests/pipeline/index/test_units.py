"""Keys tell rows apart, changes are the difference of sets, and both in any amount of memory."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.run import run
from embedmill.pipeline.index import changes as room
from embedmill.pipeline.index.changes import changes
from embedmill.pipeline.index.check import _equal
from embedmill.pipeline.index.open import shape_of
from embedmill.pipeline.index.records import _Seen, ahead, gather, keys_of
from embedmill.pipeline.index.values import digests
from embedmill.pipeline.snapshot.read import read_plan, required, table
from embedmill.pipeline.store.output import open_store
from embedmill.pipeline.vectors.ranges import range_name
from embedmill.schemas.manifest import keys_name
from embedmill.schemas.sinks import Index
from tests.pipeline.index.conftest import Stage, rows, spec_of


def keys(*numbers: int) -> np.ndarray:
    """Keys whose first byte is the number's, so that they fall into several partitions."""
    told = b"".join(bytes([n % 256]) + int(n).to_bytes(15, "big") for n in numbers)
    return np.frombuffer(told, np.uint8).reshape(-1, 16)


def numbers(found: np.ndarray) -> list[int]:
    return sorted(int.from_bytes(key.tobytes()[1:], "big") for key in found)


# --- keys ---


def test_digests_tell_any_two_rows_apart() -> None:
    texts = ["", "a", "b", "ab", "\0", "a\0", None, "é", "e\u0301"]
    pairs = list(itertools.product(texts, texts))
    first, second = (pa.array([pair[n] for pair in pairs], pa.string()) for n in (0, 1))
    found = digests([first, second], 16)
    assert len({key.tobytes() for key in found}) == len(pairs)
    again = digests([first.cast(pa.large_string()), second.slice(0)], 16)
    assert np.array_equal(found, again)


@pytest.mark.parametrize("column", [*rows(0, 60).itercolumns()], ids=lambda c: str(c.type))
def test_digests_of_every_type_follow_the_values_alone(column: pa.ChunkedArray) -> None:
    whole = column.combine_chunks()
    found = digests([whole], 16)
    for first in (0, 1, 7):
        assert np.array_equal(digests([whole.slice(first, 20)], 16), found[first : first + 20])
    values = [str(value) for value in whole.to_pylist()]
    assert len({key.tobytes() for key in found}) == len(set(values))


def test_keys_lie_beside_their_part_and_a_damaged_file_is_made_anew(
    stages: dict[str, Stage], tmp_path: Path
) -> None:
    store = open_store(str(shutil.copytree(stages["base"].out, tmp_path / "out")))
    manifest = required(store).manifest
    plan, _ = read_plan(store, manifest.plan)
    shape = shape_of(Index(sink="lance", path="x"), plan, 0)
    for path in table(store, manifest).column("path").to_pylist():
        made = keys_of(store, path, shape)
        name = store.root / keys_name(path)
        whole = name.read_bytes()
        for damaged in (whole[:-1], whole[:40] + b"x" + whole[41:], b""):
            name.write_bytes(damaged)
            assert np.array_equal(keys_of(store, path, shape), made)
            assert name.read_bytes() == whole


@pytest.mark.parametrize("model", [{}, {"long_text": "window", "max_tokens": 8, "stride": 2}])
def test_a_run_whose_spec_names_sinks_leaves_the_keys_that_a_load_would_make(
    tiny_bert: Path, tmp_path: Path, model: dict[str, object]
) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(rows(0, 100), tmp_path / "in" / "a.parquet")
    out = tmp_path / "out"
    entry = {"sink": "lance", "path": str(tmp_path / "sink")}
    run(spec_of(tmp_path / "in", tiny_bert, out, [entry], model=model))
    left = {path.name: path.read_bytes() for path in (out / "_embed" / "keys").iterdir()}
    assert len(list(out.glob("data/*/*.parquet"))) == len(left) > 1

    shutil.rmtree(out / "_embed" / "keys")
    store = open_store(str(out))
    manifest = required(store).manifest
    plan, _ = read_plan(store, manifest.plan)
    shape = shape_of(Index.model_validate(entry), plan, 0)
    made = {
        path: keys_of(store, path, shape) for path in table(store, manifest)["path"].to_pylist()
    }
    assert left == {path.name: path.read_bytes() for path in (out / "_embed" / "keys").iterdir()}
    assert manifest.vectors == len({key.tobytes() for keys in made.values() for key in keys})


def test_what_went_by_is_remembered_by_its_whole_key() -> None:
    """Halves that are equal are no equal keys; repeated ones are found in one batch and later."""
    rng = np.random.default_rng(0)
    for few in (2, 3, 1 << 40):  # so many first halves, and as many second ones
        seen, known = _Seen(), set()
        for size in (0, 1, 5, 30, 30, 1, 0):
            halves = rng.integers(0, few, (size, 2), np.uint64)
            batch = halves.view(np.uint8).reshape(-1, 16)
            for key, new in zip(batch, seen.new(batch), strict=True):
                assert new == (key.tobytes() not in known)
                known.add(key.tobytes())


# --- changes ---


def test_changes_are_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    have = [keys(1, 2, 300), keys(4, 555)]
    want = [keys(2, 6, 4), keys(), keys(700, 1, 6)]
    for partition in (1 << 22, 2, 1):
        monkeypatch.setattr(room, "PARTITION", partition)
        found = changes(iter(have), iter(want), 6)
        assert numbers(found.gone) == [300, 555]
        assert [mask.tolist() for mask in found.wanted] == [[0, 1, 0], [], [1, 0, 0]]
        assert [mask.tolist() for mask in found.stands] == [[1, 1, 1], [], [1, 1, 0]]
        assert (found.come, found.records, found.repeated) == (2, 5, 1)


def test_what_a_sink_has_twice_goes_and_comes_once() -> None:
    found = changes([keys(1, 2, 2, 9, 9)], [keys(1, 2)], 2)
    assert numbers(found.gone) == [2, 9]
    assert found.wanted[0].tolist() == [False, True]


def test_of_nothing_and_to_nothing() -> None:
    assert changes([], [], 0).records == 0
    assert numbers(changes([keys(1)], [], 0).gone) == [1]
    assert changes([], [keys(3)], 1).come == 1


def test_random_changes_are_those_of_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    monkeypatch.setattr(room, "PARTITION", 50)
    for _ in range(20):
        have = random.choice(5000, 300, replace=False)
        want = [random.choice(5000, n) for n in (0, 150, 1, 200)]
        found = changes([keys(*have)], [keys(*some) for some in want], 351)
        all_of = {int(n) for some in want for n in some}
        assert numbers(found.gone) == sorted({*map(int, have)} - all_of)
        come = [int(n) for some, mask in zip(want, found.wanted, strict=True) for n in some[mask]]
        assert sorted(come) == sorted(all_of - {*map(int, have)})


# --- batches ---


def test_small_batches_are_put_together_up_to_a_size() -> None:
    some = [pa.record_batch({"a": [n] * 3}) for n in range(10)]
    assert [len(table) for table in gather(some, 7)] == [9, 9, 9, 3]
    assert [len(table) for table in gather(some, 100, size=1)] == [3] * 10
    assert list(gather([], 5)) == []


def test_what_is_read_ahead_comes_in_order_and_so_does_its_error() -> None:
    def items():
        yield from range(5)
        raise ValueError("after five")

    found = []
    with pytest.raises(ValueError, match="after five"):
        for item in ahead(items()):
            found.append(item)
    assert found == [0, 1, 2, 3, 4]
    endless = ahead(itertools.count())
    assert next(endless) == 0
    endless.close()  # and its thread ends


def test_a_number_that_comes_back_without_its_point_is_the_same() -> None:
    """PostgreSQL's jsonb gives 1e23 as a whole number, which is no float's exact value."""
    assert _equal(10**23, 1e23) and _equal([{"a": 1e23}], [{"a": 10**23}])
    assert not _equal(10**23 + 10**10, 1e23)
    assert not _equal(2**62 + 1, 2**62)


def test_other_ranges_of_an_int8_column_are_another_load(stages: dict[str, Stage]) -> None:
    store = open_store(str(stages["base"].out))
    plan, _ = read_plan(store, required(store).manifest.plan)
    column = dataclasses.replace(plan.columns[0], dtype="int8")
    entry = Index.model_validate({"sink": "faiss", "path": "x"})
    digests = set()
    for ranges in ({}, {"a": "1" * 64}, {"a": "2" * 64}):
        named = {range_name(plan, column): sha for sha in ranges.values()}
        mine = dataclasses.replace(plan, columns=(column,), ranges=named)
        digests.add(shape_of(entry, mine, 0).digest)
    assert len(digests) == 3
