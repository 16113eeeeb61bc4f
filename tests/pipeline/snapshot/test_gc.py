"""What no kept manifest names is removed; what a run in flight makes is not."""

from __future__ import annotations

import pytest

import embedmill.pipeline.snapshot.gc
from embedmill.pipeline.snapshot.gc import collect
from embedmill.pipeline.snapshot.read import latest, read_snapshot, table
from embedmill.pipeline.store.local import SCRATCH
from embedmill.schemas.errors import ConflictError, StorageError
from tests.pipeline.conftest import Job


def data(job: Job) -> set[str]:
    return set(job.store.list("data"))


def named(job: Job, generation: int) -> set[str]:
    manifest = read_snapshot(job.store, generation).manifest
    return set(table(job.store, manifest).column("path").to_pylist())


def test_old_parts_and_rejects_go_and_carried_ones_stay(job: Job):
    job.shard("a.parquet", text=["apple"] * 9 + [None])
    job.shard("b.parquet", text=["bee"] * 9 + [None])
    job.run()
    first, rejects = data(job), set(job.store.list("_embed/rejects"))
    job.shard("b.parquet", text=["sea"] * 8 + [None] * 2)
    job.run()
    assert named(job, 2) == data(job)
    assert len(first & data(job)) == 1
    kept = set(job.store.list("_embed/rejects"))
    assert (len(rejects), len(kept), len(rejects & kept)) == (2, 2, 1)


def test_a_replaced_fingerprint_leaves_no_part(job: Job):
    job.shard("a.parquet", text=["apple"] * 20)
    job.run()
    before = data(job)
    with pytest.raises(ConflictError, match="OTHER_FINGERPRINT"):
        job.plan(model={"max_tokens": 16})
    job.run(model={"max_tokens": 16}, output={"replace": True})
    assert not before & data(job)
    assert named(job, 2) == data(job)
    assert job.plan(model={"max_tokens": 16}).unchanged


def test_kept_snapshots_stay_readable_with_their_tables_and_plans(job: Job):
    for n in range(4):
        job.shard("a.parquet", text=[f"apple {n}"] * 3)
        job.run(keep=2)
    assert named(job, 3) | named(job, 4) == data(job)
    tables = [name for name in job.store.list("_embed/manifest") if name.endswith(".arrow")]
    plans = list(job.store.list("_embed/plan"))
    assert (len(tables), len(plans)) == (2, 4)
    manifests = [name for name in job.store.list("_embed/manifest") if name.endswith(".json")]
    assert len(manifests) == 4, "manifests stay: each names the digest of the one before"
    assert collect(job.store, 2) == []
    collect(job.store, 1)
    assert named(job, 4) == data(job)


def test_parts_and_plans_of_a_run_in_flight_are_never_touched(job: Job):
    job.shard("a.parquet", text=["apple"] * 20)
    job.run()
    job.shard("b.parquet", text=["bee"] * 20)
    planned = job.plan()
    name = job.encode(planned, units=1)
    before = data(job)
    assert collect(job.store, 1) == []
    assert before == data(job)
    job.encode(planned)
    assert job.snapshot(planned, name).rows_in == 40
    assert named(job, 2) == data(job)


def test_what_lost_a_race_goes_once_the_generation_is_over(job: Job):
    job.shard("a.parquet", text=["apple"] * 5)
    lost = job.plan()
    job.encode(lost)
    job.shard("b.parquet", text=["bee"] * 5)
    planned = job.plan()
    job.snapshot(planned, job.encode(planned))
    assert named(job, 1) == data(job)
    assert len(list(job.store.list("_embed/plan"))) == 2


def test_scratch_files_go_and_what_is_not_ours_stays(job: Job):
    job.shard("a.parquet", text=["apple"] * 5)
    job.run()
    names = ["data/README.txt", "notes/mine.parquet", "_embed/log/x/000000.jsonl"]
    for name in names:
        job.store.create(name, b"mine")
    (job.folder / "out" / SCRATCH / "0.attempt").write_bytes(b"half")
    assert collect(job.store, 1) == [f"{SCRATCH}/0.attempt"]
    assert all(job.store.size(name) for name in names)


def test_collecting_twice_removes_nothing_more(job: Job):
    job.shard("a.parquet", text=["apple"] * 5)
    job.run()
    assert collect(job.store, 1) == []
    assert latest(job.store).manifest.parts == 1


def test_keeping_more_than_is_left_keeps_what_is_left(job: Job):
    """After runs that kept one snapshot, somebody asks for three."""
    for n in range(4):
        job.shard("a.parquet", text=[f"apple {n}"] * 3)
        job.run()
    assert collect(job.store, 3) == []
    assert named(job, 4) == data(job)


def test_a_gc_that_is_overtaken_by_a_run_and_its_gc_looks_again(job: Job, monkeypatch):
    """Between its look at the newest manifest and at what that one names, there is a newer one."""
    job.shard("a.parquet", text=["apple"] * 3)
    job.run()
    real, calls = embedmill.pipeline.snapshot.gc.table, []

    def overtaken(*args):
        if not calls.append(args) and len(calls) == 1:
            job.shard("a.parquet", text=["bee"] * 3)
            job.run()
        return real(*args)

    monkeypatch.setattr(embedmill.pipeline.snapshot.gc, "table", overtaken)
    assert collect(job.store, 1) == []
    assert named(job, 2) == data(job)


def test_a_snapshot_that_is_damaged_is_never_collected_around(job: Job):
    job.shard("a.parquet", text=["apple"] * 3)
    job.run()
    manifest = read_snapshot(job.store, 1).manifest
    job.store.delete(f"_embed/manifest/{manifest.table}")
    with pytest.raises(StorageError, match="OBJECT_GONE"):
        collect(job.store, 1)
    assert len(data(job)) == 1


def test_a_folder_that_is_no_output_is_refused(job: Job):
    job.store.create("data/0123456789ab/precious.parquet", b"mine")
    with pytest.raises(ConflictError):
        collect(job.store, 1)
    assert job.store.size("data/0123456789ab/precious.parquet")
