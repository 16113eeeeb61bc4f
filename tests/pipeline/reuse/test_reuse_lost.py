"""What a refresh cannot read, or not believe, it encodes; its index lives as long as its plan."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.pipeline.plan.plan import make_plan
from embedmill.pipeline.reuse.reuse import freeze_index, reuse
from tests.pipeline.conftest import Job
from tests.pipeline.refreshes import ROWS, SHARDS, fill, numbers, refresh, vectors, write


@pytest.fixture
def filled(job: Job) -> Job:
    """A snapshot over four shards of 25 rows, no two equal."""
    return fill(job)


def lose(job: Job, path: str) -> None:
    job.store.delete(path)


def flip(job: Job, path: str) -> None:
    data = bytearray(job.store.read(path))
    data[len(data) // 4] ^= 1
    (job.store.root / path).write_bytes(data)


def swap(job: Job, path: str) -> None:
    """Its rows in another order: the index says what is not there."""
    file = job.store.root / path
    whole = pq.read_table(file)
    pq.write_table(whole.take(pa.array(range(len(whole) - 1, -1, -1))), file)


@pytest.mark.parametrize("damage", [lose, flip, swap])
def test_what_cannot_be_believed_is_encoded(
    filled: Job, damage: Callable[[Job, str], None]
) -> None:
    """A part of the last snapshot is gone, has a flipped bit or holds other rows."""
    before = vectors(filled)
    for shard in range(SHARDS):
        write(filled, shard, [*numbers(shard), 200 + shard])
    planned = freeze_index(filled.store, make_plan(filled.spec(input={"id": "id"}), filled.store))
    lost = planned.parts.column("path")[0].as_py()
    rows = planned.parts.column("rows_out")[0].as_py()
    damage(filled, lost)

    report = refresh(filled)

    assert (SHARDS + rows, SHARDS * ROWS - rows) == (report.rows_encoded, report.rows_reused)
    after = vectors(filled)
    assert all(before[name] == after[name] for name in before)


def test_all_windows_of_a_row_are_reused_or_none(job: Job) -> None:
    """Of two long rows one has its windows in another order, which their hashes do not tell."""
    long = [" ".join(f"sea {n} river {i}" for i in range(20)) for n in range(2)]
    sections = {"model": {"max_tokens": 24, "long_text": "window"}}
    job.shard("a.parquet", text=long, id=["a", "b"])
    refresh(job, **sections)
    (path,) = job.store.list("data")
    part = job.folder / job.out / path
    whole = pq.read_table(part)
    windows = whole["window"].to_pylist()
    second = windows.index(0, 1)
    assert (second, 2 * second) == (windows[second - 1] + 1, len(windows))
    job.shard("a.parquet", text=[*long, "lemon"], id=["a", "b", "c"])
    before = whole["vector"].to_pylist()

    order = [*range(second), second, second + 2, second + 1, *range(second + 3, len(whole))]
    pq.write_table(whole.take(pa.array(order)), part)
    report = refresh(job, **sections)

    assert (3, 0) == (report.rows_encoded, report.rows_reused)  # the part is not to be trusted
    after = pq.read_table(job.folder / job.out / "data")["vector"].to_pylist()
    assert before == after[:-1]


@pytest.mark.parametrize("what", [".json", "segments"])
def test_a_run_whose_index_is_gone_encodes(filled: Job, what: str) -> None:
    """As it is when another driver has finished the plan, and gc was there."""
    write(filled, 0, numbers(0))
    planned = freeze_index(filled.store, make_plan(filled.spec(input={"id": "id"}), filled.store))
    with filled.store.open(next(iter(filled.store.list("data")))) as part:
        hashes = pq.read_table(part, columns=["input_hash"]).column(0).combine_chunks()
    assert len(hashes) == reuse(filled.store, planned.plan, hashes).table.num_rows
    for name in list(filled.store.list("_embed/reuse")):
        if name.endswith(".json") == (what == ".json"):
            filled.store.delete(name)
    assert 0 == reuse(filled.store, planned.plan, hashes).table.num_rows


def test_the_index_is_made_once_and_goes_with_its_plan(filled: Job) -> None:
    write(filled, 0, [*numbers(0), 600])
    spec = filled.spec(input={"id": "id"})
    planned = freeze_index(filled.store, make_plan(spec, filled.store))
    first = list(filled.store.list("_embed/reuse"))
    assert 2 == len(first)
    assert planned == freeze_index(filled.store, make_plan(spec, filled.store))
    assert first == list(filled.store.list("_embed/reuse"))

    refresh(filled)

    assert [] == list(filled.store.list("_embed/reuse"))
    assert [] == list(filled.store.list("_embed/measured"))
