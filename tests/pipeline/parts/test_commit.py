"""Only commit makes visible; who loses a race adopts what stands, after checking it."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedmill.pipeline.parts.commit
from embedmill.pipeline import flow
from embedmill.pipeline.batches import Encoded
from embedmill.pipeline.load import load_encoder, load_tokenizer
from embedmill.pipeline.parts.commit import adopt, commit_snapshot, commit_unit, overtaken
from embedmill.pipeline.parts.footer import read_footer
from embedmill.pipeline.plan.plan import Planned, freeze
from embedmill.pipeline.snapshot.read import latest, read_snapshot, table
from embedmill.pipeline.store.output import LocalStore
from embedmill.schemas.errors import ConflictError, EmbedmillError, StorageError
from embedmill.schemas.manifest import part_name
from tests.pipeline.conftest import Job


@pytest.fixture
def planned(job: Job) -> Planned:
    texts = ["apple", "bee", None, "apple", "", "sea " * 200]
    job.shard("a.parquet", text=texts)
    return job.plan()


@pytest.fixture
def encoded(planned: Planned) -> Encoded:
    (unit,) = planned.units
    prepared = flow.prepare(planned.plan, unit, load_tokenizer(planned.plan))
    return flow.encode(planned.plan, load_encoder(planned.plan), prepared)


def part_of(job: Job, planned: Planned) -> Path:
    unit = planned.units[0]
    name = part_name(planned.plan.fingerprint, unit.key, planned.plan.generation)
    return job.folder / "out" / name


def files(job: Job) -> dict[str, bytes]:
    return {name: job.store.read(name) for name in job.store.list("")}


def test_a_part_accounts_for_every_row_of_its_unit(job: Job, planned, encoded):
    record = commit_unit(job.store, planned.plan, encoded)
    assert (record.rows_in, record.rows_out, record.rows_rejected) == (6, 4, 2)
    assert (record.rows_deduplicated, record.sequences, record.rows_cut) == (1, 3, 1)
    assert record.rejects == {"EMPTY_TEXT": 1, "NULL_TEXT": 1}
    part = pq.read_table(part_of(job, planned))
    expected = [f"a.parquet#{n}" for n in (0, 1, 3, 5)]
    assert expected == part.column("id").to_pylist()
    rejects = pa.ipc.open_file(job.store.read(record.rejects_path)).read_all().to_pylist()
    shard = planned.units[0].slices[0].shard.uri
    assert rejects == [
        {"id": "a.parquet#2", "shard": shard, "row": 2, "code": "NULL_TEXT"},
        {"id": "a.parquet#4", "shard": shard, "row": 4, "code": "EMPTY_TEXT"},
    ]


def test_a_unit_that_lost_a_row_is_never_committed(job: Job, planned, encoded):
    with pytest.raises(StorageError, match="ROWS_LOST"):
        commit_unit(job.store, planned.plan, replace(encoded, table=encoded.table.slice(1)))
    assert files(job) == {}


def test_a_second_attempt_adopts_the_part_and_changes_no_byte(job: Job, planned, encoded):
    first = commit_unit(job.store, planned.plan, encoded)
    before = files(job)
    assert first == commit_unit(job.store, planned.plan, encoded)
    assert first == adopt(job.store, planned.plan, planned.units[0])
    assert before == files(job)


def test_a_part_that_a_gc_takes_before_it_is_adopted_is_made_again(
    job: Job, planned, encoded, monkeypatch
):
    """Another plan won this generation. The run learns of it at its end, not by a crash."""
    first = commit_unit(job.store, planned.plan, encoded)

    def too_late(*args):
        part_of(job, planned).unlink()
        return adopt(*args)

    monkeypatch.setattr(embedmill.pipeline.parts.commit, "adopt", too_late)
    assert first == commit_unit(job.store, planned.plan, encoded)
    assert part_of(job, planned).exists()


@pytest.mark.parametrize("verb", ["open", "sha256"])
def test_a_part_that_goes_while_it_is_looked_at_is_not_adopted(
    job: Job, planned, encoded, monkeypatch, verb
):
    commit_unit(job.store, planned.plan, encoded)
    real = getattr(LocalStore, verb)

    def too_late(self, name):
        self.delete(name)
        return real(self, name)

    monkeypatch.setattr(LocalStore, verb, too_late)
    assert adopt(job.store, planned.plan, planned.units[0]) is None


def test_what_went_with_another_snapshot_is_a_conflict_and_not_damage(job: Job, planned):
    """A run that reads what its plan stands on, after the next snapshot came and its gc."""

    def ends_with(error: StorageError) -> str:
        with pytest.raises(EmbedmillError) as caught, overtaken(job.store, planned.plan):
            raise error
        return caught.value.code

    gone = StorageError("OBJECT_GONE", "", "is gone")
    assert ends_with(gone) == "OBJECT_GONE"
    job.snapshot(planned, job.encode(planned))
    assert ends_with(StorageError("STORAGE", "", "does not answer")) == "STORAGE"
    assert ends_with(gone) == "OUTPUT_CONFLICT"


def test_attempts_that_race_give_one_part_and_equal_records(job: Job, planned, encoded):
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(lambda _: commit_unit(job.store, planned.plan, encoded), range(4)))
    assert [records[0]] * 4 == records
    assert len(list(job.store.list("data"))) == 1


def test_a_part_whose_measurements_are_gone_is_adopted_without(job: Job, planned, encoded):
    """As it is once the generation is over, and gc was there."""
    made = commit_unit(job.store, planned.plan, encoded)
    assert made == adopt(job.store, planned.plan, planned.units[0])
    (name,) = job.store.list("_embed/measured")
    job.store.delete(name)
    adopted = adopt(job.store, planned.plan, planned.units[0])
    assert adopted == replace(
        made, sequences=0, tokens_encoded=0, tokens_unknown=0, norm_sum=0, norm_squares=0
    )
    assert made.sequences == 3


def test_a_part_that_gc_takes_before_it_is_read_is_not_adopted(job: Job, planned, monkeypatch):
    monkeypatch.setattr(type(job.store), "size", lambda store, name: 7)
    assert adopt(job.store, planned.plan, planned.units[0]) is None


def test_a_part_that_gc_takes_while_it_is_adopted_is_made_again(
    job: Job, planned, encoded, monkeypatch
):
    """A driver of this plan was faster, and another has replaced its snapshot since."""
    commit_unit(job.store, planned.plan, encoded)
    path, create = part_of(job, planned), type(job.store).create

    def late(store, name, data):
        made = create(store, name, data)
        if name.startswith("data/") and not made:
            path.unlink()
        return made

    monkeypatch.setattr(type(job.store), "create", late)
    assert commit_unit(job.store, planned.plan, encoded).bytes == path.stat().st_size


def test_a_part_that_is_not_there_is_not_adopted(job: Job, planned):
    assert adopt(job.store, planned.plan, planned.units[0]) is None


@pytest.mark.parametrize("what", ["garbage", "other", "unmarked", "strange footer", "truncated"])
def test_wrong_content_under_a_parts_name_is_a_storage_error(job: Job, planned, encoded, what):
    commit_unit(job.store, planned.plan, encoded)
    path = part_of(job, planned)
    good = path.read_bytes()
    part = pq.read_table(path)
    if what == "garbage":
        path.write_bytes(b"garbage")
    elif what == "truncated":
        path.write_bytes(good[:-20])
    elif what == "unmarked":
        pq.write_table(part.replace_schema_metadata({}), path)
    elif what == "strange footer":
        pq.write_table(part.replace_schema_metadata({b"embedmill": b"not JSON"}), path)
    else:
        footer = part.schema.metadata[b"embedmill"].replace(
            planned.units[0].key.encode(), b"0" * 32
        )
        pq.write_table(part.replace_schema_metadata({b"embedmill": footer}), path)
    for attempt in (
        lambda: adopt(job.store, planned.plan, planned.units[0]),
        lambda: commit_unit(job.store, planned.plan, encoded),
    ):
        with pytest.raises(StorageError, match="PART_CORRUPT") as caught:
            attempt()
        assert str(path) in str(caught.value)


def test_a_footer_names_what_made_the_part_but_no_time_and_no_run(job: Job, planned, encoded):
    commit_unit(job.store, planned.plan, encoded)
    footer = read_footer(pq.read_metadata(part_of(job, planned)))
    assert footer.fingerprint == planned.plan.fingerprint
    assert footer.unit_key == planned.units[0].key
    assert footer.model["digest"] == planned.plan.model["digest"]
    names = [field.name for field in dataclasses.fields(footer)]
    assert not any(word in name for name in names for word in ("time", "run", "date", "host"))


def test_two_outputs_of_one_input_have_equal_bytes(job: Job):
    job.shard("a.parquet", text=[f"apple {n}" for n in range(25)])
    contents = []
    for out in ("out", "out2"):
        other = replace(job, out=out)
        other.run(input={"path": str(job.folder / "in")})
        contents.append({name: other.store.read(name) for name in other.store.list("data")})
    assert len(contents[0]) == 3
    assert contents[0] == contents[1]


def test_a_manifest_is_committed_once_and_its_own_driver_adopts_it(job: Job, planned):
    name = job.encode(planned)
    first = job.snapshot(planned, name)
    assert first == job.snapshot(planned, name)
    assert latest(job.store).manifest == first
    assert (first.generation, first.rows_in, first.rows_out, first.parts) == (1, 6, 4, 1)
    assert first.rejects == {"EMPTY_TEXT": 1, "NULL_TEXT": 1}


def test_of_two_plans_for_one_manifest_the_second_is_a_conflict(job: Job):
    """Two drivers planned on the same snapshot; between them the input grew."""
    job.shard("a.parquet", text=["apple"])
    early = job.plan()
    early_name = job.encode(early)
    records = [adopt(job.store, early.plan, unit) for unit in early.units]
    job.shard("b.parquet", text=["bee"])
    late = job.plan()
    late_name = job.encode(late)
    won = job.snapshot(late, late_name)
    with pytest.raises(ConflictError, match="OUTPUT_CONFLICT") as caught:
        commit_snapshot(job.store, early, early_name, records)
    assert caught.value.exit_code == 6
    assert latest(job.store).manifest == won
    assert won.rows_in == 2


def test_a_late_driver_of_the_same_plan_finds_its_manifest_after_later_ones(job: Job, planned):
    name = job.encode(planned)
    records = [adopt(job.store, planned.plan, unit) for unit in planned.units]
    first = commit_snapshot(job.store, planned, name, records)
    job.shard("b.parquet", text=["bee"])
    job.run()
    assert latest(job.store).manifest.generation == 2
    assert first == commit_snapshot(job.store, planned, name, records)


def test_a_manifest_with_a_missing_unit_is_never_committed(job: Job, planned):
    name = freeze(job.store, planned)
    with pytest.raises(StorageError, match="UNITS_MISSING"):
        commit_snapshot(job.store, planned, name, [])
    assert latest(job.store) is None


def test_each_manifest_names_the_digest_of_the_one_before(job: Job, planned):
    name = job.encode(planned)
    job.snapshot(planned, name)
    first = latest(job.store)
    job.shard("b.parquet", text=["bee"])
    job.run()
    assert latest(job.store).manifest.previous == first.sha256
    assert read_snapshot(job.store, 1).manifest.previous == ""


def test_a_manifests_table_that_is_changed_or_gone_is_a_storage_error(job: Job, planned):
    manifest = job.snapshot(planned, job.encode(planned))
    path = job.folder / "out" / "_embed" / "manifest" / manifest.table
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(StorageError, match="DIGEST"):
        table(job.store, manifest)
    path.unlink()
    with pytest.raises(StorageError, match="OBJECT_GONE"):
        table(job.store, manifest)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 99}', b"\xff"])
def test_a_manifest_that_is_not_ours_is_a_conflict(job: Job, content):
    job.store.create("_embed/manifest/000001.json", content)
    with pytest.raises(ConflictError) as caught:
        latest(job.store)
    assert caught.value.code in ("MANIFEST_CORRUPT", "FORMAT")
    assert "\n" not in str(caught.value)
