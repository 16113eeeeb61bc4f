"""What large plans do otherwise: a listing in place of requests, tables of a few rows at a time."""

from __future__ import annotations

import pyarrow as pa
import pytest

import embedmill.pipeline.parts.commit
import embedmill.schemas.manifest
from embedmill.pipeline.parts.commit import adopt_all
from embedmill.pipeline.plan.plan import Planned
from embedmill.pipeline.store.ipc import ipc_bytes
from embedmill.schemas.manifest import table_of
from tests.pipeline.conftest import Job


@pytest.fixture
def planned(job: Job, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Seven units, the first three committed; more than two are many."""
    monkeypatch.setattr(embedmill.pipeline.parts.commit, "ASKED", 2)
    for n in range(7):
        job.shard(f"{n}.parquet", text=[f"apple {n} {i}" for i in range(10)])
    planned = job.plan()
    assert 7 == len(planned.units)
    job.encode(planned, units=3)
    return planned


def test_of_many_units_those_that_a_listing_names_are_adopted(job: Job, planned: Planned) -> None:
    records, missing = adopt_all(job.store, planned.plan, planned.units)

    assert [unit.key for unit in planned.units[:3]] == [record.unit_key for record in records]
    assert planned.units[3:] == missing


def test_they_are_asked_for_no_other(
    job: Job, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million requests that all say no are an hour of a bucket's."""
    asked = []
    right = embedmill.pipeline.parts.commit.adopt
    monkeypatch.setattr(
        embedmill.pipeline.parts.commit, "adopt", lambda *of: asked.append(of) or right(*of)
    )
    adopt_all(job.store, planned.plan, planned.units)

    assert 3 == len(asked)


def test_a_unit_that_the_listing_missed_is_found_when_it_is_committed(
    job: Job, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = job.store
    short = list(store.list("data"))[1:]
    monkeypatch.setattr(type(store), "list", lambda self, folder: iter(short))
    records, missing = adopt_all(store, planned.plan, planned.units)
    assert (2, 5) == (len(records), len(missing))
    monkeypatch.undo()

    manifest = job.snapshot(planned, job.encode(planned))
    assert (7, 70) == (manifest.parts, manifest.rows_out)


def test_a_table_is_the_same_however_many_rows_are_made_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.list_(pa.int64()))])
    rows = [{"a": str(n), "b": list(range(n))} for n in range(25)]
    whole = table_of(rows, schema)
    monkeypatch.setattr(embedmill.schemas.manifest, "AT_ONCE", 4)

    assert whole == pa.Table.from_pylist(rows, schema=schema)
    assert ipc_bytes(whole).equals(ipc_bytes(table_of(iter(rows), schema)))
    assert table_of([], schema) == schema.empty_table()
