"""A unit's rows arrive in input order, as text or with a status, and never from another file."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.pipeline.read.unit import locate, read_unit
from embedmill.schemas.columns import Status
from embedmill.schemas.errors import InputError
from embedmill.schemas.plan import Slice, Unit
from tests.pipeline.conftest import Job, raw_strings

BAD = b"caf\xe9"


def codes(batch) -> list[str]:
    return [Status(code).name for code in batch.status_R]


def test_null_empty_blank_and_bad_utf8_are_a_rows_status(job: Job):
    values = [b"apple", None, b"", b" \t\xe2\x80\x83\n", BAD, "été".encode(), b"\xed\xa0\x80"]
    job.shard("a.parquet", text=raw_strings(values))
    batch = job.read()
    expected = ["OK", "NULL_TEXT", "EMPTY_TEXT", "EMPTY_TEXT", "BAD_UTF8", "OK", "BAD_UTF8"]
    assert expected == codes(batch)
    assert [batch.a[0], batch.a[5]] == ["apple", "été"]


def test_bad_utf8_in_b_in_the_id_or_in_a_kept_column_is_the_rows_own(job: Job):
    good = ["x", "y", "z", "v"]
    job.shard(
        "a.parquet",
        text=good,
        other=raw_strings([BAD, b"b", b"b", b"b"]),
        doc=raw_strings([b"1", BAD, b"3", b"4"]),
        title=raw_strings([b"t", b"t", BAD, b"t"]),
    )
    batch = job.read(input={"pair": "other", "id": "doc", "keep": ["title"]})
    assert codes(batch) == ["BAD_UTF8"] * 3 + ["OK"]
    assert batch.rows.column("doc")[3].as_py() == "4"


def test_on_empty_encode_lets_blank_texts_go_on_as_they_are(job: Job):
    job.shard("a.parquet", text=["", "  ", None])
    batch = job.read(input={"on_empty": "encode"})
    assert codes(batch) == ["OK", "OK", "NULL_TEXT"]
    assert batch.a[:2] == ["", "  "]


@pytest.mark.parametrize(("policy", "bad"), [("on_null", None), ("on_empty", " ")])
def test_a_policy_to_fail_names_the_shard_and_the_row_in_it(job: Job, policy, bad):
    job.shard("a.parquet", text=["one"] * 5)
    path = job.shard("b.parquet", text=["two", "three", bad])
    with pytest.raises(InputError, match=f"{path}, row 2, text"):
        job.read(input={policy: "fail"})


def test_a_template_renders_its_columns_and_a_null_among_them_as_nothing(job: Job):
    job.shard("a.parquet", title=["T", None, None, "U"], body=["b", "c", None, None])
    batch = job.read(input={"text": "{{{title}}} {body}"})
    assert codes(batch) == ["OK", "OK", "NULL_TEXT", "OK"]
    assert [batch.a[0], batch.a[1], batch.a[3]] == ["{T} b", "{} c", "{U} "]


def test_b_is_empty_where_it_is_null_and_none_where_there_is_no_pair(job: Job):
    job.shard("a.parquet", text=["x", "y", "z"], other=["b", None, " "])
    assert job.read(input={"pair": "other"}).b == ["b", "", " "]
    assert job.read().b is None


def test_a_template_of_b_is_no_text_where_all_its_columns_are_null(job: Job):
    job.shard("a.parquet", text=["x", "y", "z"], other=["b", None, ""], more=["c", None, None])
    batch = job.read(input={"pair": "answer: {other}{more}"})
    assert batch.b == ["answer: bc", "", "answer: "]


def test_bad_utf8_inside_a_kept_column_is_the_rows_own(job: Job):
    texts = raw_strings([b"one", BAD, b"three"])
    job.shard(
        "a.parquet",
        text=["x", "y", "z"],
        tags=pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), texts),
        about=pa.StructArray.from_arrays([pa.array([1, 2, 3]), texts], names=["n", "name"]),
    )
    for name, good in (("tags", ["three"]), ("about", {"n": 3, "name": "three"})):
        batch = job.read(input={"keep": [name]})
        assert codes(batch) == ["OK", "BAD_UTF8", "OK"]
        batch.rows.validate(full=True)
        assert batch.rows.column(name)[2].as_py() == good


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
def test_every_kind_of_string_is_the_same_text(job: Job, kind):
    values = ["a long text, longer than twelve bytes", None, "é", "é"]
    column = pa.array(values).cast(kind) if not pa.types.is_dictionary(kind) else None
    column = column if column is not None else pa.array(values, kind.value_type).dictionary_encode()
    job.shard("a.parquet", text=column, title=column)
    batch = job.read(input={"keep": ["title"]})
    assert codes(batch) == ["OK", "NULL_TEXT", "OK", "OK"]
    assert [values[0], "é", "é"] == [batch.a[0], *batch.a[2:]]
    assert batch.rows.column("title").to_pylist() == values
    assert batch.rows.schema.field("title").type == pa.string()


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (pa.int8(), pa.int64()),
        (pa.int32(), pa.int64()),
        (pa.uint64(), pa.int64()),
        (pa.large_string(), pa.string()),
        (pa.dictionary(pa.int32(), pa.string()), pa.string()),
    ],
    ids=str,
)
def test_an_id_is_stored_as_int64_or_string_and_a_null_one_is_a_reject(job: Job, kind, stored):
    plain = [7, 8, None] if stored == pa.int64() else ["x", "y", None]
    column = pa.array(plain, kind)
    job.shard("a.parquet", text=["one", "two", "three"], doc=column)
    batch = job.read(input={"id": "doc"})
    assert batch.rows.schema.field("doc").type == stored
    assert plain == batch.rows.column("doc").to_pylist()
    assert codes(batch) == ["OK", "OK", "NULL_ID"]


def test_an_integer_id_beyond_53_bits_stays_exact(job: Job):
    job.shard("a.parquet", text=["x"], doc=pa.array([2**63 - 1], pa.uint64()))
    assert job.read(input={"id": "doc"}).rows.column("doc").to_pylist() == [2**63 - 1]


def test_an_integer_id_beyond_63_bits_is_an_input_error_that_names_the_column(job: Job):
    path = job.shard("a.parquet", text=["x", "y"], doc=pa.array([1, 2**63], pa.uint64()))
    with pytest.raises(InputError, match="doc") as caught:
        job.read(input={"id": "doc"})
    assert str(path) in str(caught.value)


def test_default_ids_are_the_shards_name_and_the_row_in_it(job: Job):
    """Over several slices and row groups, more than one batch, and from the middle of a shard."""
    job.shard("sub/a.parquet", 7, text=[f"a{n}" for n in range(20)])
    job.shard("b.parquet", 3000, text=[f"b{n}" for n in range(6000)])
    planned = job.plan(run={"unit_rows": 1_000_000})
    b, a = (piece.shard for unit in planned.units for piece in unit.slices)
    unit = Unit("0" * 32, (Slice(a, 5, 12), Slice(b, 1900, 3500), Slice(a, 19, 1)))
    batch = read_unit(planned.plan, unit)
    expected = [f"sub/a.parquet#{n}" for n in range(5, 17)]
    expected += [f"b.parquet#{n}" for n in range(1900, 5400)] + ["sub/a.parquet#19"]
    assert expected == batch.rows.column("id").to_pylist()
    letters = [name.split("#")[0][-9] + name.split("#")[1] for name in expected]
    assert letters == batch.a
    assert (b.uri, 1900) == locate(unit, 12)
    assert (a.uri, 19) == locate(unit, 3512)
    with pytest.raises(IndexError):
        locate(unit, 3513)


def test_small_shards_that_spell_their_columns_differently_share_a_unit(job: Job):
    """Another column order, another width of string, another width of integer: all the same."""
    job.shard("a.parquet", text=["one"], doc=pa.array([1], pa.int32()), n=[5])
    job.shard(
        "b.parquet", n=[6], doc=pa.array([2], pa.uint8()), text=pa.array(["two"], "large_string")
    )
    batch = job.read(input={"id": "doc", "keep": ["n"]})
    assert batch.a == ["one", "two"]
    assert batch.rows.column("doc").to_pylist() == [1, 2]
    assert batch.rows.column("n").to_pylist() == [5, 6]


def test_a_unit_without_rows_is_empty(job: Job):
    job.shard("a.parquet", text=pa.array([], pa.string()))
    batch = job.read(input={"pair": "text"})
    assert (len(batch.rows), batch.a, batch.b) == (0, [], [])


def test_a_flipped_bit_in_a_page_is_found_by_its_checksum(job: Job):
    path = job.folder / "in" / "a.parquet"
    table = pa.table({"text": [f"apple {n}" for n in range(500)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[data.index(b"apple 250") + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="UNREADABLE") as caught:
        job.read()
    assert str(path) == caught.value.where


@pytest.mark.parametrize("change", ["rewritten", "touched", "grown"])
def test_a_shard_that_changed_since_it_was_planned_is_refused(job: Job, change):
    path = job.shard("a.parquet", text=["one", "two"])
    planned = job.plan()
    if change == "rewritten":
        job.shard("a.parquet", text=["one", "six"])
        os.utime(path, ns=(1, 1))
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    else:
        before = path.stat().st_mtime_ns
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(before, before))
    with pytest.raises(InputError, match="INPUT_CHANGED"):
        read_unit(planned.plan, planned.units[0])


def test_a_shard_that_is_gone_since_it_was_planned_is_refused(job: Job):
    path = job.shard("a.parquet", text=["one", "two"])
    planned = job.plan()
    path.unlink()
    with pytest.raises(InputError, match="INPUT_GONE"):
        read_unit(planned.plan, planned.units[0])
