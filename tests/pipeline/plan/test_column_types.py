"""Types that hold the same values are one; what a type would wrap or lose is not joined."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.pipeline.plan.column_types import has_view, joined, plain
from embedmill.schemas.errors import InputError
from tests.pipeline.conftest import Job


def kept(job: Job, *names: str, **input) -> pa.Table:
    """The id and the kept columns of the only unit, as a part would have them."""
    return job.read(input={"id": "i", "keep": list(names), **input}).rows


def test_an_int96_time_beyond_nanoseconds_is_itself(job: Job) -> None:
    """Read in nanoseconds, 9999-12-31 is 1816-03-30."""
    far = datetime.datetime(9999, 12, 31, 1, 2, 3, 4)
    old = datetime.datetime(1, 1, 1)
    times = pa.array([far, old, None], pa.timestamp("us"))
    path = job.folder / "in" / "a.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"i": ["1", "2", "3"], "text": ["a", "b", "c"], "t": times})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    assert kept(job, "t").column("t").to_pylist() == [far, old, None]


def test_a_column_that_is_null_alone_takes_the_type_of_the_others(job: Job) -> None:
    job.shard("0.parquet", i=["1", "2"], text=["a", "b"], n=[1, 2])
    job.shard("1.parquet", i=["3", "4"], text=pa.nulls(2), n=pa.nulls(2))
    batch = job.read(input={"id": "i", "keep": ["n"]})
    assert batch.rows.column("n").to_pylist() == [1, 2, None, None]
    assert batch.status_R.tolist()[:2] == [0, 0]
    assert all(batch.status_R[2:] > 0)


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint64(), pa.int64(), None),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.int64(), pa.float64(), None),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("ns"), None),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
        (pa.decimal128(10, 2), pa.decimal128(20, 2), pa.decimal128(20, 2)),
        (pa.decimal128(10, 2), pa.decimal128(10, 3), None),
        (pa.string(), pa.int64(), None),
        (pa.null(), pa.string(), pa.string()),
    ],
    ids=str,
)
def test_types_are_joined_where_nothing_is_lost(a, b, both) -> None:
    assert joined(a, b) == both
    assert joined(b, a) == both


def test_shards_whose_types_differ_in_width_spelling_and_nullability_are_one(job: Job) -> None:
    strict = pa.list_(pa.field("item", pa.int32(), nullable=False))
    job.shard("0.parquet", i=["1"], text=["a"], n=pa.array([1], pa.int32()),
              tags=pa.array([[1, 2]], strict), at=pa.array([5], pa.timestamp("ms")))  # fmt: skip
    job.shard("1.parquet", i=["2"], text=["b"], n=pa.array([2], pa.int64()),
              tags=pa.array([[3, None]], pa.large_list(pa.int64())),
              at=pa.array([7000], pa.timestamp("us")))  # fmt: skip
    rows = kept(job, "n", "tags", "at")
    assert rows.column("n").to_pylist() == [1, 2]
    assert rows.column("tags").to_pylist() == [[1, 2], [3, None]]
    moments = [datetime.datetime(1970, 1, 1, 0, 0, 0, n * 1000) for n in (5, 7)]
    assert rows.column("at").to_pylist() == moments


def test_what_cannot_be_joined_names_both_shards(job: Job) -> None:
    job.shard("0.parquet", i=["1"], text=["a"], n=[1])
    job.shard("1.parquet", i=["2"], text=["b"], n=["x"])
    with pytest.raises(InputError, match=r"1\.parquet.*string here, and int64 in .*0\.parquet"):
        kept(job, "n")


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string_view()),
        pa.list_view(pa.string()),
        pa.struct([("a", pa.binary_view())]),
        pa.list_(pa.struct([("a", pa.list_(pa.string_view()))])),
    ],
    ids=str,
)
def test_no_view_is_left_in_a_type(kind: pa.DataType) -> None:
    assert has_view(kind)
    assert not has_view(plain(kind))


def test_a_nested_view_is_kept_by_value(job: Job) -> None:
    tags = pa.array([["a", None], None, ["b"]], pa.list_(pa.string_view()))
    job.shard("0.parquet", i=["1", "2", "3"], text=["x", "y", "z"], tags=tags)
    rows = kept(job, "tags").take(pa.array([2, 0]))  # what a part's table does
    assert rows.column("tags").to_pylist() == [["b"], ["a", None]]


def test_json_is_text_and_uuids_and_whole_decimals_are_ids(job: Job) -> None:
    ids = [uuid.UUID(int=n) for n in (1, 2**127)]
    words = [json.dumps({"a": n}) for n in range(2)]
    storage = pa.array([i.bytes for i in ids], pa.binary(16))
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), storage)
    texts = pa.ExtensionArray.from_storage(pa.json_(), pa.array(words))
    whole = pa.array([decimal.Decimal(10**37), decimal.Decimal(7)], pa.decimal128(38, 0))
    job.shard("0.parquet", u=uuids, j=texts, d=whole)

    by_uuid = job.read(input={"text": "j", "id": "u", "keep": ["j", "d"]})
    assert by_uuid.a == words
    assert by_uuid.rows.column("u").to_pylist() == [str(i) for i in ids]
    assert by_uuid.rows.column("j").to_pylist() == words
    by_number = job.read(input={"text": "j", "id": "d", "keep": ["u"]})
    assert by_number.rows.column("d").to_pylist() == [str(10**37), "7"]
    assert by_number.rows.column("u").to_pylist() == [str(i) for i in ids]
