"""What a damaged page costs: an error, or under quarantine the rows of its row group, no more."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.pipeline.read import slices
from embedmill.pipeline.read.unit import read_unit
from embedmill.schemas.columns import Status
from embedmill.schemas.errors import InputError
from tests.pipeline.conftest import Job

QUARANTINE = {"on_bad_file": "quarantine"}


def damage(path: Path, text: bytes) -> None:
    """Flips a bit of a text in the file; its page has a checksum."""
    data = bytearray(path.read_bytes())
    data[data.index(text)] ^= 1
    path.write_bytes(data)


def shard(job: Job, name: str, rows: int = 12, group: int = 4, **columns) -> Path:
    """A shard of plain pages with checksums, `group` rows a row group."""
    path = job.folder / "in" / name
    columns = {"text": [f"{name[0]} {n:03d}" for n in range(rows)], **columns}
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    options["write_statistics"] = False  # they would hold the first and the last text once more
    pq.write_table(pa.table(columns), path, row_group_size=group, **options)
    return path


def codes(batch) -> list[str]:
    return [Status(code).name for code in batch.status_R]


def claim_more_rows(path: Path) -> None:
    """A file of 100 rows whose first page of text says that it has 50."""
    pq.write_table(
        pa.table({"text": [f"t{n}" for n in range(100)]}),
        path, compression="none", use_dictionary=False, write_statistics=False,
    )  # fmt: skip
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\xc8\x01", b"\xe4\x00", 1))


def test_a_damaged_page_is_an_error_that_names_the_file(job: Job):
    path = shard(job, "a.parquet")
    damage(path, b"a 005")
    with pytest.raises(InputError, match="UNREADABLE.*on_bad_file: quarantine") as caught:
        job.read()
    assert (str(path), 3) == (caught.value.where, caught.value.exit_code)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_zeroed_bytes_are_found_by_the_checksum(job: Job, compression: str):
    """A sector that was never written."""
    path = job.folder / "in" / "a.parquet"
    table = pa.table({"text": [f"apple {n * 7919 % 10007}" for n in range(3000)]})
    pq.write_table(table, path, compression=compression, write_page_checksum=True)
    whole = path.read_bytes()
    for start in range(512, len(whole) - 2000, max(512, len(whole) // 8)):
        path.write_bytes(whole[:start] + bytes(512) + whole[start + 512 :])
        with pytest.raises(InputError) as caught:
            job.read()
        assert caught.value.code in ("UNREADABLE", "NOT_PARQUET")


def test_under_quarantine_it_costs_the_rows_of_its_row_group(job: Job):
    shard(job, "a.parquet")
    shard(job, "b.parquet", title=[f"title {n}" for n in range(12)])
    shard(job, "a.parquet", title=[f"title {n}" for n in range(12)])
    damage(job.folder / "in" / "a.parquet", b"a 005")
    batch = job.read(input={**QUARANTINE, "keep": ["title"]})
    lost = range(4, 8)
    assert [n for n, code in enumerate(codes(batch)) if code == "UNREADABLE"] == list(lost)
    assert [n for n, code in enumerate(codes(batch)) if code == "OK"] == [
        n for n in range(24) if n not in lost
    ]
    assert batch.a == ["" if n in lost else f"{'ab'[n // 12]} {n % 12:03d}" for n in range(24)]
    assert batch.rows["id"].to_pylist() == [f"{'ab'[n // 12]}.parquet#{n % 12}" for n in range(24)]
    title = batch.rows["title"].to_pylist()
    assert title == [None if n in lost else f"title {n % 12}" for n in range(24)]


def test_rows_with_an_id_column_lose_it_with_their_text(job: Job):
    path = shard(job, "a.parquet", doc=list(range(12)))
    damage(path, b"a 000")
    batch = job.read(input={**QUARANTINE, "id": "doc"})
    assert batch.rows["doc"].to_pylist() == [None] * 4 + list(range(4, 12))
    assert codes(batch)[:5] == ["UNREADABLE"] * 4 + ["OK"]


def test_a_unit_inside_a_row_group_loses_its_own_rows_of_it(job: Job):
    path = shard(job, "a.parquet", rows=8, group=8)
    damage(path, b"a 007")
    planned = job.plan(input=QUARANTINE, run={"unit_rows": 4})
    found = [codes(read_unit(planned.plan, unit)) for unit in planned.units]
    assert found == [["UNREADABLE"] * 4] * 2  # one page holds them all


def test_a_run_under_quarantine_accounts_for_every_row(job: Job):
    damage(shard(job, "a.parquet"), b"a 005")
    job.run(input=QUARANTINE, run={"unit_rows": 1000})
    (part,) = (job.folder / "out").glob("data/*/*.parquet")
    (rejects,) = (job.folder / "out").glob("_embed/rejects/*")
    rows = pa.ipc.open_file(rejects.read_bytes()).read_all().to_pylist()
    assert pq.read_table(part).num_rows == 8
    assert [(row["id"], row["row"], row["code"]) for row in rows] == [
        (f"a.parquet#{n}", n, "UNREADABLE") for n in range(4, 8)
    ]


def test_pages_with_fewer_rows_than_the_footer_promises(job: Job):
    path = job.folder / "in" / "a.parquet"
    claim_more_rows(path)
    with pytest.raises(InputError, match="promises 100 rows, its pages have 50"):
        job.read()
    assert codes(job.read(input=QUARANTINE)) == ["UNREADABLE"] * 100


def test_a_file_that_is_overwritten_while_it_is_read_has_changed(job: Job, monkeypatch):
    """Under quarantine too: half of the old pages and half of the new are no damage."""
    path = shard(job, "a.parquet")
    planned = job.plan(input=QUARANTINE)
    damage(path, b"a 005")
    os.utime(path, ns=(1, int(planned.units[0].slices[0].shard.version)))
    seen = iter([slices.version_now(str(path)), (1, "another")])
    monkeypatch.setattr(slices, "version_now", lambda uri: next(seen))
    with pytest.raises(InputError, match="INPUT_CHANGED"):
        read_unit(planned.plan, planned.units[0])


def test_another_footer_of_the_same_size_and_time_is_another_file(job: Job):
    path = shard(job, "a.parquet")
    planned = job.plan()
    before = path.stat().st_mtime_ns
    shard(job, "a.parquet", title=["t"] * 12)
    other = path.read_bytes()
    shard(job, "a.parquet", eltit=["t"] * 12)
    assert len(other) == len(path.read_bytes())
    planned = job.plan()
    path.write_bytes(other)
    os.utime(path, ns=(before, int(planned.units[0].slices[0].shard.version)))
    with pytest.raises(InputError, match="INPUT_CHANGED"):
        read_unit(planned.plan, planned.units[0])


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), TimeoutError("slow"), MemoryError("no room")]
)
def test_a_failing_disk_network_or_memory_rejects_no_row(job: Job, monkeypatch, error):
    """Tomorrow the same bytes may be there: no row may be given up for it."""
    shard(job, "a.parquet")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(slices, "_stretch", fail)
    with pytest.raises((InputError, MemoryError)):
        job.read(input=QUARANTINE)


def test_a_unit_that_unpacks_to_too_much_is_refused_or_its_row_group_is(job: Job, monkeypatch):
    monkeypatch.setattr(slices, "MAX_BYTES", 1000)
    path = shard(job, "a.parquet", rows=3, group=1, body=["x", "x" * 2000, "x"])
    with pytest.raises(InputError, match="UNIT_TOO_LARGE.*rows 0 to 2.*lower run.unit_rows"):
        job.read(input={"text": "body"})
    assert codes(job.read(input={"text": "body", **QUARANTINE})) == ["OK", "UNREADABLE", "OK"]
    path.unlink()
    shard(job, "b.parquet", rows=3, group=1, body=["x" * 500] * 3)
    with pytest.raises(InputError, match="UNIT_TOO_LARGE"):  # each fits, and together they do not
        job.read(input={"text": "body", **QUARANTINE})


@pytest.mark.parametrize("kind", [pa.string(), pa.int64()], ids=str)
def test_a_dictionary_is_counted_as_what_it_unpacks_to(job: Job, monkeypatch, kind):
    """One entry of 1,000 bytes that 100 rows name is 100,000 bytes."""
    monkeypatch.setattr(slices, "MAX_BYTES", 1_000_000)
    word = "x" * 1000 if kind == pa.string() else 7
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), pa.array([word], kind))
    shard(job, "a.parquet", rows=100, group=100, word=column)
    spec = {"keep": ["word"]}
    assert codes(job.read(input=spec)) == ["OK"] * 100
    monkeypatch.setattr(slices, "MAX_BYTES", 20_000)
    if kind == pa.string():
        with pytest.raises(InputError, match="UNIT_TOO_LARGE"):
            job.read(input=spec)
    else:
        assert codes(job.read(input=spec)) == ["OK"] * 100
