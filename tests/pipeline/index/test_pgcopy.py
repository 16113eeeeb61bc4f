"""Every Arrow type reaches a real PostgreSQL by COPY BINARY as it is, nulls and all."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
from decimal import Decimal
from typing import Any

import asyncpg
import numpy as np
import pyarrow as pa
import pytest

from embedmill.pipeline.index.pgvector.binary_copy import (
    HEADER,
    TRAILER,
    columns_of,
    copy_rows,
    storable,
)
from embedmill.pipeline.index.pgvector.statements import create, vector_of
from embedmill.pipeline.index.sink import KEY, Shape
from embedmill.pipeline.index.values import plain
from embedmill.schemas.plan import VectorColumn

NOW = datetime.datetime(2026, 11, 27, 8, 9, 10, 123456)
THEN = NOW.replace(tzinfo=datetime.UTC)
STRUCT = pa.struct({"a": pa.int32(), "b": pa.string()})
# type -> values; the second of each is null
VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "int8": (pa.int8(), [-128, None, 127]),
    "int16": (pa.int16(), [-32768, None, 32767]),
    "int32": (pa.int32(), [-(2**31), None, 2**31 - 1]),
    "int64": (pa.int64(), [-(2**63), None, 2**63 - 1]),
    "uint8": (pa.uint8(), [0, None, 255]),
    "uint16": (pa.uint16(), [0, None, 65535]),
    "uint32": (pa.uint32(), [0, None, 2**32 - 1]),
    "uint64": (pa.uint64(), [0, None, 2**64 - 1]),
    "half": (pa.float16(), [np.float16(1.5), None, np.float16(-0.0009765625)]),
    "float": (pa.float32(), [0.1, None, math.inf]),
    "double": (pa.float64(), [0.1, None, math.nan]),
    "bool": (pa.bool_(), [True, None, False]),
    "text": (pa.string(), ["", None, "é\"'\\\n\t日本語 🚀"]),
    "large text": (pa.large_string(), ["x" * 100_000, None, ""]),
    "date": (pa.date32(), [datetime.date(1, 1, 1), None, datetime.date(9999, 12, 31)]),
    "time": (pa.timestamp("us"), [NOW, None, datetime.datetime(1, 1, 1)]),
    "seconds": (pa.timestamp("s"), [NOW.replace(microsecond=0), None, NOW.replace(microsecond=0)]),
    "nanos": (pa.timestamp("ns"), [NOW, None, NOW]),
    "zone": (pa.timestamp("us", "Europe/Berlin"), [THEN, None, THEN]),
    "bytes": (pa.binary(), [b"", None, bytes(range(256))]),
    "fixed": (pa.binary(3), [b"abc", None, b"\0\0\0"]),
    "list": (pa.list_(pa.string()), [[], None, ["a", None, '"']]),
    "struct": (STRUCT, [{"a": 1, "b": "x"}, None, {"a": None, "b": "\0"}]),
    "decimal": (pa.decimal128(20, 3), [Decimal("1.500"), None, Decimal("-12345678901234567.125")]),
    "duration": (pa.duration("s"), [datetime.timedelta(days=1), None, datetime.timedelta(0)]),
    "clock": (pa.time64("us"), [datetime.time(1, 2, 3), None, datetime.time(23, 59)]),
}  # fmt: skip
VECTORS = [[1.5, -2.0, 0.25, 3.0, 1e-3, 7.0, -8.5, 0.1], [0.0] * 7 + [1.0], [-1.0] * 8]


def shape_of(names: list[str], dtype: str) -> Shape:
    fields = [pa.field(name, VALUES[name][0]) for name in names]
    kind = {"float32": pa.list_(pa.float32(), 8), "float16": pa.list_(pa.float16(), 8)}
    vector = pa.field("v", kind.get(dtype, pa.binary(1)))
    column = VectorColumn("v", "encoder", "mean", False, dtype, 8, 8)
    schema = pa.schema([pa.field(KEY, pa.binary(16)), *fields, vector])
    return Shape("f", column, "cosine", "flat", names[0], schema)


def batch_of(shape: Shape, names: list[str]) -> pa.RecordBatch:
    kind = shape.schema.field("v").type
    vectors: Any = [bytes([n]) for n in (0, 170, 255)]
    if shape.column.dtype != "binary":
        flat = pa.array(np.array(VECTORS, shape.column.dtype).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    keys = pa.array([bytes([n]) * 16 for n in range(3)], pa.binary(16))
    values = [pa.array(VALUES[name][1], VALUES[name][0]) for name in names]
    return pa.RecordBatch.from_arrays([keys, *values, pa.array(vectors, kind)], schema=shape.schema)


def through_postgresql(shape: Shape, batch: pa.RecordBatch, environment: dict[str, str]) -> list:
    columns = columns_of(shape)
    bare = {name.removeprefix("PG").lower(): value for name, value in environment.items()}

    async def there_and_back() -> list:
        db = await asyncpg.connect(**bare, server_settings={"timezone": "UTC"})
        await db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        await db.execute('DROP TABLE IF EXISTS "copied"')
        await db.execute(create('"copied"', columns))

        async def stream() -> Any:
            yield HEADER
            yield copy_rows(batch.slice(0, 1), columns)
            yield copy_rows(batch.slice(1), columns)
            yield TRAILER

        await db.copy_to_table(
            "copied", columns=[c.name for c in columns], source=stream(), format="binary"
        )
        chosen = ", ".join('"v"::text' if c.name == "v" else f'"{c.name}"' for c in columns)
        rows = await db.fetch(f'SELECT {chosen} FROM "copied" ORDER BY 1')
        await db.close()
        return [tuple(row) for row in rows]

    return asyncio.run(there_and_back())


def test_every_type(postgres: dict[str, str]) -> None:
    names = list(VALUES)
    shape = shape_of(names, "float32")
    batch, replaced = storable(batch_of(shape, names))
    assert replaced == 1, "the NUL inside a struct"
    types = [column.type for column in columns_of(shape)[1:-1]]
    found = through_postgresql(shape, batch, postgres)
    expected = batch.select(names).to_pylist()
    for row, wanted in zip(found, expected, strict=True):
        for name, kind, value in zip(names, types, row[1:-1], strict=True):
            told = value
            if kind == "jsonb" and value is not None:
                told = json.loads(value)
            said = plain(wanted[name])
            assert (told if kind == "jsonb" else plain(told)) == said, name
    assert [row[0].bytes for row in found] == batch.column(0).to_pylist()


@pytest.mark.parametrize("dtype", ["float32", "float16", "binary"])
def test_every_kind_of_vector(postgres: dict[str, str], dtype: str) -> None:
    shape = shape_of(["text"], dtype)
    found = through_postgresql(shape, batch_of(shape, ["text"]), postgres)
    vectors = [vector_of(row[-1]) for row in found]
    if dtype == "binary":
        assert [vector.tolist() for vector in vectors] == [[0], [170], [255]]
    else:
        assert np.array_equal(vectors, np.array(VECTORS, dtype).astype(np.float32))


def test_a_nul_is_replaced_and_counted() -> None:
    batch = pa.record_batch({"a": ["x\0y\0", None, "z"], "b": pa.array([1, 2, 3])})
    stored, replaced = storable(batch)
    assert stored.column("a").to_pylist() == ["x\ufffdy\ufffd", None, "z"]
    assert replaced == 1
