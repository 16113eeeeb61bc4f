"""What Qdrant's two doors have in common: payloads, names of points, filters in its words."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from embedmill.pipeline.index.filters import Condition
from embedmill.pipeline.index.sink import Fetched, Hit, Shape
from embedmill.pipeline.index.values import plain, vectors_of
from embedmill.schemas.errors import SpecError

M, EF_CONSTRUCTION, EF_SEARCH = 16, 100, 128  # docs/indexes.md says why
BATCH_ROWS, BATCH_BYTES = 4096, 16 << 20
SIMPLE = re.compile(r"[A-Za-z0-9_-]+")
EXACT_INTEGERS = 1 << 53  # beyond these a double skips some
RANGES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def refuse(shape: Shape) -> None:
    """SpecError for vectors that Qdrant cannot hold."""
    if shape.column.kind != "float":
        what = f"index: qdrant has no {shape.column.kind} vectors of ours; load float32 or float16"
        raise SpecError("SINK", "", what)


def ids(keys: np.ndarray) -> list[uuid.UUID]:
    """The points' ids."""
    return [uuid.UUID(bytes=key.tobytes()) for key in keys]


def keys(points: Sequence[Any]) -> np.ndarray:
    """The keys of points, uint8 (n, 16); the server's door gives ids as text."""
    some = [p.id if isinstance(p.id, uuid.UUID) else uuid.UUID(str(p.id)) for p in points]
    return np.frombuffer(b"".join(one.bytes for one in some), np.uint8).reshape(-1, 16)


def payloads(rows: pa.Table) -> Iterator[dict[str, Any]]:
    """Id and kept columns of each record, as JSON has them."""
    names, columns = rows.schema.names[1:-1], []
    for name in names:
        column = rows.column(name)
        values = column.to_pylist()
        if not any(test(column.type) for test in (pa.types.is_string, pa.types.is_integer)):
            values = [plain(value) for value in values]
        columns.append(values)
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def vectors(rows: pa.Table) -> list[list[float]]:
    """The vectors of the records."""
    column = rows.column(rows.num_columns - 1).combine_chunks()
    return vectors_of(column).astype(np.float32, copy=False).tolist()


def record(payload: dict[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    """The wanted columns of a payload."""
    return {name: (payload or {}).get(name) for name in names}


def fetched(point: Any, names: Sequence[str]) -> Fetched:
    """A point as what it carries and its vector."""
    return record(point.payload, names), np.array(point.vector, np.float32)


def hit(point: Any, shape: Shape, names: Sequence[str]) -> Hit:
    """A found point as a hit; of l2 Qdrant gives the distance."""
    score = -point.score if shape.metric == "l2" else point.score
    key = keys([point])[0].tobytes()
    return Hit(key, float(score), record(point.payload, names))


def tests(where: Sequence[Condition]) -> Iterator[tuple[bool, str, str, Any]]:
    """(must hold, path, kind, value): kind is match, range, times or empty."""
    for one in where:
        _refuse_inexact(one)
        key, value = _path(one.column), one.value
        if one.op in ("=", "!="):
            if one.op == "!=":
                yield False, key, "empty", None
            must = one.op == "="
            if isinstance(value, float):
                yield must, key, "range", {"gte": value, "lte": value}
            elif isinstance(value, date | datetime):
                yield must, key, "times", {"gte": value.isoformat(), "lte": value.isoformat()}
            else:
                yield must, key, "match", value
        elif isinstance(value, str):
            what = f"search: qdrant compares text with = and != alone, not {one.op}"
            raise SpecError("WHERE", "", what)
        elif isinstance(value, date | datetime):
            yield True, key, "times", {RANGES[one.op]: value.isoformat()}
        else:
            yield True, key, "range", {RANGES[one.op]: value}


def _refuse_inexact(one: Condition) -> None:
    """SpecError for what Qdrant would compare rounded: wide integers as doubles, times to 1 us."""
    is_wide = isinstance(one.value, int) and abs(one.value) >= EXACT_INTEGERS
    if is_wide and (one.op not in ("=", "!=") or not -(1 << 63) <= one.value < 1 << 63):
        what = f"{one.op} with whole numbers from 2^53 on, as {one.value}, "
    elif pa.types.is_timestamp(one.field.type) and one.field.type.unit == "ns":
        what = f"times in nanoseconds, as {one.column!r} has, "
    else:
        return
    raise SpecError("WHERE", "", f"search: qdrant cannot compare {what}exactly; search the parts")


def _path(name: str) -> str:
    """A column's name as a JSON path."""
    if SIMPLE.fullmatch(name):
        return name
    if '"' in name or "\n" in name:
        what = f"search: qdrant cannot filter by {name!r}: no quotes and no line breaks"
        raise SpecError("WHERE", "", what)
    return f'"{name}"'
