"""Records in the binary form of PostgreSQL's COPY: Arrow columns joined row by row, no row loop.

A row is the number of its fields, then each field as its length in bytes and its bytes, all
big-endian; a null has the length -1. Which type of PostgreSQL each Arrow type becomes is here, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedmill.pipeline.index.sink import KEY, Shape
from embedmill.pipeline.index.values import bits_of, plain, vectors_of

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
SHIFT_US = 946_684_800_000_000  # from 1970 to 2000, where PostgreSQL's time begins
SHIFT_DAYS = 10_957
INT32 = np.dtype(">i4")
NUMBERS = (
    ((pa.int8(), pa.int16(), pa.uint8()), "smallint", ">i2"),
    ((pa.int32(), pa.uint16()), "integer", ">i4"),
    ((pa.int64(), pa.uint32()), "bigint", ">i8"),
    ((pa.float16(), pa.float32()), "real", ">f4"),
    ((pa.float64(),), "double precision", ">f8"),
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: its type, and how an Arrow array becomes fields of it."""

    name: str
    type: str
    fields: Callable[[pa.Array], list[pa.Array]]  # (length and bytes), as binary arrays


def columns_of(shape: Shape) -> list[Column]:
    """The table's columns: the key, what is carried, the vector."""
    carried = [_column(field) for field in shape.carried]
    vector, name = shape.column, shape.schema.names[-1]
    if vector.kind == "binary":
        kind = Column(name, f"bit({vector.dim})", _bit_fields)
    elif vector.dtype == "float16":
        kind = Column(name, f"halfvec({vector.dim})", lambda c: _vector_fields(c, ">f2"))
    else:
        kind = Column(name, f"vector({vector.dim})", lambda c: _vector_fields(c, ">f4"))
    return [Column(KEY, "uuid", lambda c: _fixed(bits_of(c), None)), *carried, kind]


def copy_rows(batch: pa.RecordBatch | pa.Table, columns: list[Column]) -> memoryview:
    """Records as the rows of a COPY, without its header and trailer."""
    arrays = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in batch.columns]
    count = np.full((len(batch), 1), len(columns), ">i2").view(np.uint8)
    pieces = [_binary(count)]
    for column, array in zip(columns, arrays, strict=True):
        pieces += column.fields(array)
    large = [piece.cast(pa.large_binary()) for piece in pieces]
    rows = pc.binary_join_element_wise(*large, pa.scalar(b"", pa.large_binary()))
    offsets = np.frombuffer(rows.buffers()[1], np.int64)
    return memoryview(rows.buffers()[2] or b"")[offsets[rows.offset] : offsets[-1]]


def _column(field: pa.Field) -> Column:
    kind, name = field.type, field.name
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Column(name, "text", lambda c: _bytes_fields(c.cast(pa.binary())))
    if pa.types.is_boolean(kind):
        return Column(name, "boolean", lambda c: _numbers("u1", c.cast(pa.uint8())))
    for kinds, type, dtype in NUMBERS:
        if kind in kinds:
            return Column(name, type, partial(_numbers, dtype))
    if pa.types.is_date(kind):
        return Column(name, "date", _dates)
    if pa.types.is_timestamp(kind):
        return Column(name, "timestamptz" if kind.tz else "timestamp", _times)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    if any(test(kind) for test in binary):
        return Column(name, "bytea", lambda c: _bytes_fields(c.cast(pa.binary())))
    return Column(name, "jsonb", _json_fields)


def storable(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
    """The batch with values that PostgreSQL can hold, and in how many rows a NUL was replaced.

    Text has no NUL there: it becomes U+FFFD. Times have microseconds; those with a zone are UTC.
    """
    arrays, replaced = [], 0
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            nul = pc.sum(pc.match_substring(column, "\0")).as_py() or 0
            replaced += nul
            column = pc.replace_substring(column, "\0", "\ufffd") if nul else column
        elif pa.types.is_timestamp(field.type):
            kind = pa.timestamp("us", field.type.tz and "UTC")
            column = pc.cast(column, kind, safe=False)
        elif pa.types.is_nested(field.type) and field.name != batch.schema.names[-1]:
            values = column.to_pylist()
            nul = sum(1 for value in values if "\\u0000" in json.dumps(plain(value)))
            replaced += nul
            if nul:
                column = pa.array([_without_nul(value) for value in values], field.type)
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names), replaced


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list | tuple):
        return [_without_nul(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _without_nul(inner) for key, inner in value.items()}
    return value


def _binary(rows: np.ndarray) -> pa.Array:
    """(R, width) uint8 as an array of byte strings."""
    rows = np.ascontiguousarray(rows)
    kind = pa.binary(rows.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])


def _fixed(data: np.ndarray, valid: np.ndarray | None) -> list[pa.Array]:
    """Fields of one width, (R, width) uint8; where not valid they are null."""
    whole = np.empty((len(data), 4 + data.shape[1]), np.uint8)
    whole[:, :4] = np.frombuffer(np.array(data.shape[1], INT32).tobytes(), np.uint8)
    whole[:, 4:] = data
    if valid is None or valid.all():
        return [_binary(whole)]
    some = pc.if_else(pa.array(valid), _binary(whole).cast(pa.binary()), b"\xff\xff\xff\xff")
    return [some]


def _numbers(dtype: str, column: pa.Array) -> list[pa.Array]:
    valid = np.asarray(column.is_valid())
    zero = pa.scalar(0, column.type)
    values = np.asarray(pc.fill_null(column, zero) if column.null_count else column)
    data = values.astype(dtype).view(np.uint8).reshape(len(column), -1)
    return _fixed(data, valid)


def _dates(column: pa.Array) -> list[pa.Array]:
    days = column.cast(pa.date32()).view(pa.int32())
    return _numbers(">i4", pc.subtract(days, pa.scalar(SHIFT_DAYS, pa.int32())))


def _times(column: pa.Array) -> list[pa.Array]:
    return _numbers(">i8", pc.subtract(column.view(pa.int64()), SHIFT_US))


def _bytes_fields(column: pa.Array) -> list[pa.Array]:
    length = np.asarray(pc.fill_null(pc.binary_length(column).cast(pa.int32()), -1))
    lengths = _binary(length.astype(INT32).view(np.uint8).reshape(-1, 4))
    return [lengths, pc.fill_null(column, b"")]


def _json_fields(column: pa.Array) -> list[pa.Array]:
    told = [
        None if v is None else b"\x01" + json.dumps(plain(v)).encode() for v in column.to_pylist()
    ]
    return _bytes_fields(pa.array(told, pa.binary()))


def _vector_fields(column: pa.Array, dtype: str) -> list[pa.Array]:
    vectors_RD = vectors_of(column)
    head = np.array([vectors_RD.shape[1], 0], ">i2").view(np.uint8)
    body = vectors_RD.astype(dtype).view(np.uint8).reshape(len(vectors_RD), -1)
    return _fixed(np.concatenate([np.broadcast_to(head, (len(body), 4)), body], axis=1), None)


def _bit_fields(column: pa.Array) -> list[pa.Array]:
    bits = bits_of(column)
    head = np.array([8 * bits.shape[1]], INT32).view(np.uint8)
    return _fixed(np.concatenate([np.broadcast_to(head, (len(bits), 4)), bits], axis=1), None)
