"""Keys of a part's rows, kept beside it: left with it if the spec names sinks, else by a load.

A key is the first half of sha256 over what a sink holds of a row but its vector, and over the
input the vector was made of. R rows of a part.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

import numpy as np
import pyarrow as pa

from embedmill.pipeline.index.sink import KEY_BYTES
from embedmill.pipeline.index.values import digests
from embedmill.pipeline.store.output import Store
from embedmill.schemas.columns import part_schema
from embedmill.schemas.errors import StorageError
from embedmill.schemas.manifest import keys_name
from embedmill.schemas.plan import Plan
from embedmill.schemas.spec import RESERVED_COLUMNS


def carried_fields(plan: Plan) -> list[pa.Field]:
    """What people know a part's rows by: the id, of windows their number and span, kept columns."""
    left = {*(column.name for column in plan.columns), *RESERVED_COLUMNS}
    return [field for field in part_schema(plan) if field.name not in left]


def kept(store: Store, path: str) -> np.ndarray | None:
    """The keys beside a part, uint8 (R, 16); None if there are none, or not as they were left."""
    name = keys_name(path)
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    if hashlib.sha256(data[32:]).digest() == data[:32]:
        return np.frombuffer(data, np.uint8, offset=32).reshape(-1, KEY_BYTES)
    store.delete(name)
    return None


def leave(store: Store, path: str, made: list[np.ndarray]) -> np.ndarray:
    """Joins the keys of a part's batches, and leaves them beside the part if that is allowed."""
    keys = np.concatenate([np.zeros((0, KEY_BYTES), np.uint8), *made])
    with suppress(StorageError):  # an output that can only be read: made again by the next load
        _write(store, path, keys.tobytes())
    return keys


def leave_with(store: Store, plan: Plan, path: str, part: pa.Table) -> None:
    """Leaves the keys of a part that was just made, while its columns are at hand."""
    columns = part.select([*(field.name for field in carried_fields(plan)), "input_hash"])
    made = [digests(batch.columns, KEY_BYTES) for batch in columns.to_batches()]
    _write(store, path, b"".join(keys.tobytes() for keys in made))


def keys_in(column: pa.Array) -> np.ndarray:
    """A column of keys as uint8 (R, 16)."""
    data = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, KEY_BYTES)
    return data[column.offset : column.offset + len(column)]


def _write(store: Store, path: str, keys: bytes) -> None:
    store.create(keys_name(path), hashlib.sha256(keys).digest() + keys)
