"""Arrow values in other forms: bytes that tell any two apart, and what JSON can hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedmill.pipeline.vectors.ranges import dequantize


def plain(value: Any) -> Any:
    """A value as JSON can hold it: times as ISO text, bytes as hex, what is not finite as null."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value) if isinstance(value, timedelta | Decimal) else value


def vectors_of(column: pa.Array) -> np.ndarray:
    """A fixed-size-list column as (R, D), without a copy."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def floats_of(column: pa.Array, range_2D: np.ndarray | None = None) -> np.ndarray:
    """A column of vectors as float32 (R, D); int8 codes as the middles of their steps."""
    vectors_RD = vectors_of(column)
    if range_2D is not None:
        return dequantize(vectors_RD, range_2D)
    return vectors_RD.astype(np.float32, copy=False)


def bits_of(column: pa.Array) -> np.ndarray:
    """A column of packed bits as uint8 (R, D / 8)."""
    packed = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, column.type.byte_width)
    return packed[column.offset : column.offset + len(column)]


def signs_of(column: pa.Array) -> np.ndarray:
    """A column of packed bits as (R, D) of 1 and -1: their cosine is 1 - 2 * Hamming / D."""
    return np.unpackbits(bits_of(column), axis=1).astype(np.float32) * 2 - 1


# kind of column -> its stored values as (R, D) floats. The others are no vectors of one length.
DECODERS: dict[str, Callable[[pa.Array, np.ndarray | None], np.ndarray]] = {
    "float": lambda column, _: vectors_of(column),
    "int8": lambda column, range_2D: dequantize(vectors_of(column), range_2D),
    "binary": lambda column, _: signs_of(column),
}


def digests(columns: list[pa.Array], size: int) -> np.ndarray:
    """The first `size` bytes of sha256 over each row's values, uint8 (R, size).

    Each value is told with its length, so that no two different rows read the same.
    """
    told = [piece.cast(pa.large_binary()) for column in columns for piece in _told(column)]
    rows = pc.binary_join_element_wise(*told, pa.scalar(b"", pa.large_binary()))
    offsets = np.frombuffer(rows.buffers()[1], np.int64)[rows.offset :][: len(rows) + 1].tolist()
    data = memoryview(rows.buffers()[2] or b"")
    sha256 = hashlib.sha256
    pairs = zip(offsets, offsets[1:], strict=False)
    joined = b"".join([sha256(data[a:b]).digest() for a, b in pairs])
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)[:, :size].copy()


def _told(column: pa.Array) -> list[pa.Array]:
    """A column as (length, bytes) in two binary arrays; null has the length -1."""
    kind = column.type
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        data = column.cast(pa.large_binary())
    elif (
        pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)
    ):
        data = column.cast(pa.binary())
    elif (whole := _whole(kind)) is not None:
        data = column.view(whole).cast(pa.string()).cast(pa.binary())
    else:
        data = pa.array([_written(value) for value in column.to_pylist()], pa.binary())
    length = pc.fill_null(pc.binary_length(data).cast(pa.int64()), -1)
    prefix = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(8), len(length), [None, length.buffers()[1]], offset=length.offset
    )
    return [prefix.cast(pa.binary()), pc.fill_null(data, b"")]


def _whole(kind: pa.DataType) -> pa.DataType | None:
    """The integer type that has the same bits as a number or a time; None for other types."""
    if pa.types.is_integer(kind):
        return kind
    if pa.types.is_floating(kind) or pa.types.is_temporal(kind):
        return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(kind.bit_width)
    return None


def _written(value: Any) -> bytes | None:
    if value is None:
        return None
    return json.dumps(plain(value), ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
