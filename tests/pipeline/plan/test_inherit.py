"""What a plan takes over from a run that was interrupted, and from the last snapshot."""

from __future__ import annotations

import pytest

from embedmill.pipeline.plan.plan import freeze
from embedmill.pipeline.snapshot.read import open_plans
from tests.pipeline.conftest import Job


def test_an_interrupted_run_keeps_its_settings(job: Job):
    """Larger units are asked for in between: the same units, so that finished parts are found."""
    job.shard("a.parquet", text=[f"apple {n}" for n in range(40)])
    first = job.plan()
    job.encode(first, units=2)
    again = job.plan(run={"unit_rows": 20, "pack_tokens": 99})
    assert first.units == again.units
    assert first.plan == again.plan
    assert freeze(job.store, again) == next(open_plans(job.store, 1))[0]


def test_units_of_an_interrupted_run_that_are_too_large_can_be_made_smaller(job: Job):
    job.shard("a.parquet", text=[f"apple {n}" for n in range(40)])
    job.encode(job.plan(), units=0)
    again = job.plan(run={"unit_rows": 7, "pack_tokens": 99})
    assert again.plan.settings.unit_rows == 7
    assert again.plan.settings.pack_tokens != 99


def test_the_cut_of_the_last_snapshot_is_not_taken_over_by_larger_rows(
    job: Job, monkeypatch: pytest.MonkeyPatch
):
    """Vectors of every token, after one a text: a part must still be one request from memory."""
    job.shard("a.parquet", text=["sea"] * 15)
    job.run()
    monkeypatch.setattr("embedmill.pipeline.plan.resolve.MAX_PART_BYTES", 100_000)
    columns = [{"name": "vector", "pooling": "tokens"}]
    output = {"columns": columns, "replace": True}
    most = job.plan(output=output, run={"unit_rows": "auto"}).plan.settings.unit_rows
    assert most == 100_000 // (64 + 4 * 32 * 128)


def test_an_interrupted_run_of_another_encoding_is_not_inherited(job: Job):
    job.shard("a.parquet", text=[f"apple {n}" for n in range(40)])
    job.encode(job.plan(), units=1)
    other = job.plan(model={"max_tokens": 16}, run={"unit_rows": 7})
    assert other.plan.settings.unit_rows == 7


def test_a_later_run_inherits_the_unit_cut_where_the_spec_leaves_it_open(job: Job):
    job.shard("a.parquet", text=["wind"] * 15)
    job.run()
    for n in range(2):
        job.shard(f"new-{n}.parquet", text=["sea"] * 15)
    planned = job.plan(run={"unit_rows": "auto"})
    assert planned.plan.settings.unit_rows == 10
    assert job.plan(run={"unit_rows": 20}).plan.settings.unit_rows == 20
