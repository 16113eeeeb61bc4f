"""What any reader sees under OUT/data is exactly the last snapshot, whatever came before."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from embedmill.pipeline.snapshot.gc import collect
from embedmill.pipeline.snapshot.read import PLANS, latest, open_plans, required, table
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import ConflictError, StorageError
from tests.pipeline.conftest import Job


def by_pyarrow(data: Path) -> list[tuple[str, int]]:
    rows = ds.dataset(data).to_table(columns=["id", "n"])
    return list(zip(*rows.to_pydict().values(), strict=True))


def by_polars(data: Path) -> list[tuple[str, int]]:
    import polars as pl

    return pl.read_parquet(data / "**" / "*.parquet").select("id", "n").rows()


def by_duckdb(data: Path) -> list[tuple[str, int]]:
    import duckdb

    query = f"select id, n from read_parquet('{data}/**/*.parquet') where len(vector) = 32"
    return duckdb.sql(query).fetchall()


READERS = {"pyarrow": by_pyarrow, "polars": by_polars, "duckdb": by_duckdb}


def is_seen(job: Job, expected: list[tuple[str, int]]) -> None:
    data = job.folder / "out" / "data"
    for name, read in READERS.items():
        assert sorted(expected) == sorted(read(data)), name


def shard(job: Job, name: str, *numbers: int | None) -> list[tuple[str, int]]:
    """Writes a shard; a None is a row without text. Gives what a reader is to see of it."""
    texts = [None if n is None else f"apple {n}" for n in numbers]
    job.shard(name, 5, text=texts, n=[-1 if n is None else n for n in numbers])
    return [(f"{name}#{row}", n) for row, n in enumerate(numbers) if n is not None]


@pytest.mark.parametrize("cap", [3, 10, 1000])
def test_readers_see_exactly_the_snapshot_after_edits_deletes_and_refreshes(job: Job, cap):
    sections = {"input": {"keep": ["n"]}, "run": {"unit_rows": cap}}
    a, b, c = (shard(job, f"{name}.parquet", *range(7), None) for name in "abc")
    job.run(**sections)
    is_seen(job, a + b + c)
    b = shard(job, "b.parquet", 100, None, 101)
    job.run(**sections)
    is_seen(job, a + b + c)
    (job.folder / "in" / "a.parquet").unlink()
    d = shard(job, "d.parquet", *range(200, 212))
    job.run(**sections)
    is_seen(job, b + c + d)
    job.run(**sections)
    is_seen(job, b + c + d)
    (job.folder / "in" / "c.parquet").unlink()
    e = shard(job, "e.parquet", 8, *range(7), 203, None, 8)
    d = shard(job, "d.parquet", *range(205, 212), *range(4))
    assert job.run(**sections).plan.reuse
    is_seen(job, b + d + e)
    c = e
    other = {"model": {"max_tokens": 16}, "output": {"replace": True}}
    job.run(**sections, **other)
    is_seen(job, b + c + d)
    folders = {path.parent.name for path in (job.folder / "out" / "data").rglob("*.parquet")}
    assert {latest(job.store).manifest.fingerprint[:12]} == folders


def test_a_run_that_was_killed_at_any_point_is_not_seen_once_the_next_has_ended(job: Job):
    sections = {"input": {"keep": ["n"]}}
    a = shard(job, "a.parquet", *range(25))
    job.run(**sections)
    b = shard(job, "b.parquet", *range(25))
    job.encode(job.plan(**sections), units=2)  # and then killed
    (job.folder / "in" / "b.parquet").unlink()
    c = shard(job, "c.parquet", *range(3))
    job.run(**sections)
    is_seen(job, a + c)
    assert b


def test_the_latest_snapshot_is_asked_for_directly_and_not_only_listed(job: Job, monkeypatch):
    """A listing may be stale: number n + 1 counts if it is there."""
    shard(job, "a.parquet", 1)
    job.run()
    shard(job, "b.parquet", 1)
    job.run()
    store = job.store
    listed = store.list
    stale = [name for name in listed("_embed/manifest") if not name.endswith("000002.json")]
    monkeypatch.setattr(store, "list", lambda folder: iter(stale))
    assert latest(store).manifest.generation == 2


def test_an_output_without_a_snapshot_is_a_conflict(job: Job):
    assert latest(job.store) is None
    for ask in (required, lambda store: collect(store, 1)):
        with pytest.raises(ConflictError, match="NO_SNAPSHOT"):
            ask(job.store)


def test_a_table_lists_its_parts_with_their_digests_and_sizes(job: Job):
    shard(job, "a.parquet", *range(25))
    job.run()
    rows = table(job.store, latest(job.store).manifest).to_pylist()
    assert len(rows) == 3
    for row in rows:
        assert job.store.sha256(row["path"]) == row["sha256"]
        assert os.path.getsize(job.folder / "out" / row["path"]) == row["bytes"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"plan": {}}', b'{"plan": {"generation": 1}}']
)
def test_a_damaged_plan_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    """Whoever reads it: what is wrong, and what to do."""
    store = open_store(str(tmp_path / "out"))
    store.create(f"{PLANS}/000001-0123456789abcdef.json", content)

    with pytest.raises(StorageError, match="PLAN_CORRUPT"):
        list(open_plans(store, 1))
