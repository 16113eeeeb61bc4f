"""A later plan costs only what changed, and nothing moves a bit of a run that was begun."""

from __future__ import annotations

import os

import pytest

import embedmill.pipeline.plan.plan
import embedmill.pipeline.snapshot.read
from embedmill.pipeline.plan.plan import freeze
from embedmill.pipeline.snapshot.read import latest, open_plans, open_units, read_plan
from embedmill.schemas.errors import ConflictError, InputError, StorageError
from tests.pipeline.conftest import Job


@pytest.fixture
def filled(job: Job) -> Job:
    """A snapshot over eight small shards and a big one."""
    for n in range(8):
        job.shard(f"{n}.parquet", text=[f"apple {n} {i}" for i in range(4)])
    job.shard("big.parquet", 10, text=[f"bee {i}" for i in range(35)])
    job.run()
    return job


def rows_by_shard(planned) -> dict[str, int]:
    """How many rows of each shard are to be encoded."""
    counts: dict[str, int] = {}
    for unit in planned.units:
        for piece in unit.slices:
            counts[piece.shard.name] = counts.get(piece.shard.name, 0) + piece.rows
    return counts


def test_a_plan_writes_nothing(job: Job):
    job.shard("a.parquet", text=["x"])
    job.plan()
    assert not (job.folder / "out").exists()


def test_a_first_plan_has_every_row_once(job: Job):
    job.shard("a.parquet", text=["x"] * 25)
    job.shard("b.parquet", text=["y"] * 3)
    planned = job.plan()
    assert rows_by_shard(planned) == {"a.parquet": 25, "b.parquet": 3}
    assert all(unit.rows <= 10 for unit in planned.units)
    assert planned.counts == {
        "shards": 2, "rows": 28, "rows_new": 28, "rows_changed": 0, "rows_carried": 0,
    }  # fmt: skip


def test_a_second_plan_of_an_unchanged_input_carries_every_part(filled: Job):
    planned = filled.plan()
    assert planned.units == []
    assert planned.unchanged
    assert planned.counts == {
        "shards": 9, "rows": 67, "rows_new": 0, "rows_changed": 0, "rows_carried": 67,
    }  # fmt: skip


def test_a_touched_shard_costs_only_the_units_that_it_is_in(filled: Job):
    path = filled.folder / "in" / "big.parquet"
    os.utime(path, ns=(1, 1))
    planned = filled.plan()
    assert rows_by_shard(planned) == {"big.parquet": 35}
    assert (planned.counts["rows_changed"], planned.counts["rows_carried"]) == (35, 32)
    path = filled.folder / "in" / "3.parquet"
    os.utime(path, ns=(1, 1))
    filled.run()
    os.utime(path, ns=(2, 2))
    again = filled.plan()
    assert again.counts["rows_carried"] >= 67 - 10
    assert "big.parquet" not in rows_by_shard(again)


def test_a_deleted_shard_drops_out_and_a_new_one_is_added(filled: Job):
    (filled.folder / "in" / "big.parquet").unlink()
    filled.shard("new.parquet", text=["sea"] * 12)
    planned = filled.run()
    assert rows_by_shard(planned) == {"new.parquet": 12}
    assert planned.counts == {
        "shards": 9, "rows": 44, "rows_new": 12, "rows_changed": 0, "rows_carried": 32,
    }  # fmt: skip
    assert latest(filled.store).manifest.rows_in == 44


def test_a_deleted_shard_alone_makes_a_new_snapshot_without_encoding(filled: Job):
    (filled.folder / "in" / "big.parquet").unlink()
    planned = filled.run()
    assert planned.units == []
    assert not planned.unchanged
    assert (latest(filled.store).manifest.generation, filled.plan().unchanged) == (2, True)


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({"model": {"max_tokens": 16}}, "max_tokens"),
        ({"input": {"text": "{text}!"}}, "text"),
        ({"output": {"columns": [{"name": "vector", "dim": 8}]}}, "columns"),
        ({"model": {"precision": "fast", "max_tokens": 9}}, "max_tokens, precision"),
    ],
)
def test_another_fingerprint_is_a_conflict_that_names_what_differs(filled: Job, change, keys):
    with pytest.raises(ConflictError, match=f"with another {keys};") as caught:
        filled.plan(**change)
    assert (caught.value.exit_code, caught.value.code) == (6, "OTHER_FINGERPRINT")


@pytest.mark.parametrize("change", [{"unit_rows": 7}, {"pack_tokens": 64}, {"workers": 1}])
def test_how_a_run_is_done_is_no_part_of_the_identity(filled: Job, change):
    assert filled.plan(run=change).unchanged


def test_another_id_or_kept_column_makes_every_part_anew(job: Job):
    job.shard("a.parquet", text=["x"] * 5, doc=["1"] * 5)
    job.run()
    for change in ({"id": "doc"}, {"keep": ["doc"]}, {"on_empty": "encode"}):
        assert rows_by_shard(job.plan(input=change)) == {"a.parquet": 5}


def test_default_ids_follow_the_shards_names_when_the_pattern_changes(job: Job):
    """Else a carried part would have the ids of the old pattern, equal to those of other rows."""
    job.shard("x/a.parquet", text=["x"] * 5)
    job.shard("a.parquet", text=["y"] * 5)
    inner, outer = (str(job.folder / path) for path in ("in/x", "in"))
    job.run(input={"path": inner})
    assert rows_by_shard(job.plan(input={"path": outer})) == {"x/a.parquet": 5, "a.parquet": 5}


def test_a_named_id_column_lets_parts_stay_when_the_pattern_changes(job: Job):
    job.shard("x/a.parquet", text=["x"] * 5, doc=["1"] * 5)
    inner, outer = (str(job.folder / path) for path in ("in/x", "in"))
    job.run(input={"path": inner, "id": "doc"})
    assert job.plan(input={"path": outer, "id": "doc"}).unchanged


@pytest.mark.parametrize(
    ("policy", "texts"), [("on_null", ["sea", None]), ("on_empty", ["sea", " "])]
)
def test_rejects_of_the_last_snapshot_that_now_fail_are_read_again(job: Job, policy, texts):
    job.shard("a.parquet", text=texts * 10)
    good = job.shard("b.parquet", text=["wind"] * 10)
    job.run()
    assert job.plan().unchanged
    planned = job.plan(input={policy: "fail"})
    assert [unit.rows for unit in planned.units] == [10, 10]
    assert planned.counts["rows_carried"] == 10, good
    with pytest.raises(InputError, match="a.parquet, row 1, text"):
        job.encode(planned)


def test_a_frozen_plan_reads_back_as_it_was(filled: Job):
    filled.shard("new.parquet", text=["sea"] * 15)
    planned = filled.plan()
    name = freeze(filled.store, planned)
    plan, units = read_plan(filled.store, name)
    assert planned.plan == plan
    assert [unit.key for unit in planned.units] == units.column("unit_key").to_pylist()


def test_the_fingerprint_does_not_depend_on_where_things_lie(job: Job, tmp_path):
    import shutil

    job.shard("a.parquet", text=["x"])
    here = job.plan()
    shutil.copytree(job.model, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("a note")
    there = job.plan(
        model={"name": str(tmp_path / "model")}, output={"path": str(tmp_path / "elsewhere")}
    )
    assert here.plan.fingerprint == there.plan.fingerprint


def test_shards_that_cannot_be_read_drop_out_under_quarantine(filled: Job):
    (filled.folder / "in" / "3.parquet").write_bytes(b"broken")
    with pytest.raises(InputError, match="NOT_PARQUET"):
        filled.plan()
    planned = filled.run(input={"on_bad_file": "quarantine"})
    manifest = latest(filled.store).manifest
    assert manifest.rows_in == planned.counts["rows"] == 63
    assert (manifest.num_quarantined, len(manifest.quarantined)) == (1, 1)


def test_a_shard_that_comes_and_cannot_be_read_makes_another_snapshot(filled: Job):
    """Nothing is to be encoded; but the snapshot tells what is left out, and that has changed."""
    bad = filled.folder / "in" / "new.parquet"
    bad.write_bytes(b"broken")
    quarantine = {"on_bad_file": "quarantine"}
    assert filled.run(input=quarantine).units == []
    assert latest(filled.store).manifest.quarantined == [str(bad)]
    assert filled.plan(input=quarantine).unchanged
    bad.unlink()
    filled.run(input=quarantine)
    assert latest(filled.store).manifest.quarantined == []


def test_a_plan_that_is_overtaken_stands_on_the_new_snapshot(filled: Job, monkeypatch):
    """Another run commits, and collects what this one was about to plan on."""
    real, calls = embedmill.pipeline.plan.plan.list_shards, []

    def overtaken(*args):
        if not calls.append(args) and len(calls) == 1:
            filled.shard("new.parquet", text=["sea"] * 3)
            filled.run()
        return real(*args)

    monkeypatch.setattr(embedmill.pipeline.plan.plan, "list_shards", overtaken)
    planned = filled.plan()
    assert (planned.plan.generation, planned.unchanged) == (3, True)


def test_an_open_plan_that_goes_while_it_is_looked_at_is_no_plan(job: Job, monkeypatch):
    """Its generation ended after it was listed; or the listing is an old one."""
    job.shard("a.parquet", text=["apple"])
    name = job.encode(job.plan())
    real = embedmill.pipeline.snapshot.read.read_plan_head

    def too_late(store, name):
        store.delete(f"_embed/plan/{name}")
        return real(store, name)

    monkeypatch.setattr(embedmill.pipeline.snapshot.read, "read_plan_head", too_late)
    assert list(open_plans(job.store, 1)) == []
    assert job.store.size(f"_embed/plan/{name}") is None


def test_an_open_plan_whose_units_go_while_it_is_read_is_no_plan(job: Job, monkeypatch):
    job.shard("a.parquet", text=["apple"])
    job.encode(job.plan())
    real = embedmill.pipeline.snapshot.read.read_plan

    def too_late(store, name):
        for path in list(store.list("_embed/plan")):
            store.delete(path)
        return real(store, name)

    assert [len(units) for _, _, units in open_units(job.store, 1)] == [1]
    monkeypatch.setattr(embedmill.pipeline.snapshot.read, "read_plan", too_late)
    assert list(open_units(job.store, 1)) == []


def test_an_open_plan_that_is_damaged_is_told(job: Job):
    job.shard("a.parquet", text=["apple"])
    job.encode(job.plan())
    (units,) = (name for name in job.store.list("_embed/plan") if name.endswith(".arrow"))
    job.store.delete(units)
    assert job.store.create(units, b"rubbish")
    with pytest.raises(StorageError, match="is not what was committed"):
        list(open_units(job.store, 1))


@pytest.mark.parametrize("what", ["part", "rejects"])
def test_what_is_gone_is_made_anew(job: Job, what: str) -> None:
    """Its unit alone, under a new generation; the others carry over, and all is whole again."""
    job.shard("a.parquet", 10, text=[None if n % 7 == 3 else f"lemon {n}" for n in range(30)])
    job.run()
    folder = {"part": "data", "rejects": "_embed/rejects"}[what]
    (job.store.root / sorted(job.store.list(folder))[1]).unlink()

    planned = job.run()

    assert 1 == len(planned.units)
    assert 2 == len(planned.carried)
    assert 3 == len(list(job.store.list("data")))
    assert job.plan().unchanged
