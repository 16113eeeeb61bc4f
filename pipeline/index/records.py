"""Parts as records, in batches.

E entries, R rows of a part.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.pipeline.index.keys import carried_fields, kept, keys_in, leave
from embedmill.pipeline.index.sink import KEY, KEY_BYTES, Shape
from embedmill.pipeline.index.values import digests
from embedmill.pipeline.store.output import Store
from embedmill.pipeline.store.parts import opened
from embedmill.schemas.columns import vector_type
from embedmill.schemas.errors import SpecError
from embedmill.schemas.plan import Plan, VectorColumn

BATCH_BYTES = 32 << 20  # of the columns that are read at once: kept ones may be whole documents
BATCH_ROWS = 16384
S, T = TypeVar("S"), TypeVar("T")
Batches = Iterator[pa.RecordBatch]


def record_schema(plan: Plan, column: VectorColumn) -> pa.Schema:
    """What a record holds of a part: key, id, windows, kept columns, and last the vector."""
    fields = carried_fields(plan)
    if any(field.name == KEY for field in fields):
        raise SpecError("COLUMN", "", f"input: {KEY!r} is a column of every sink; rename yours")
    key = pa.field(KEY, pa.binary(KEY_BYTES), nullable=False)
    vector = pa.field(column.name, vector_type(column), nullable=False)
    return pa.schema([key, *fields, vector])


def keys_of(store: Store, path: str, shape: Shape) -> np.ndarray:
    """The keys of a part's rows, uint8 (R, 16): those beside it, or made now and left there."""
    if (keys := kept(store, path)) is not None:
        return keys
    names = [*(field.name for field in shape.carried), "input_hash"]
    with opened(store, path) as file:
        made = [digests(batch.columns, KEY_BYTES) for batch in batches(file, names)]
    return leave(store, path, made)


def all_records(store: Store, paths: list[str], shape: Shape, stands: list[np.ndarray]) -> Batches:
    """All records of the parts in one pass, each once.

    `stands` has a mask of True for each part; rows whose record an earlier row has become False.
    It remembers the keys that went by, so it is for a snapshot that fits in memory so.
    """
    seen = _Seen()
    rows = np.concatenate([np.zeros(0, bool), *stands])
    first = 0
    for batch in records(store, paths, shape, stands):
        new, here = seen.new(keys_in(batch.column(0))), slice(first, first + len(batch))
        first += len(batch)
        rows[here] = new
        if new.all():
            yield batch
        elif new.any():
            yield batch.filter(pa.array(new))
    ends = np.cumsum([len(stands_R) for stands_R in stands])
    stands[:] = np.split(rows, ends[:-1]) if stands else []


class _Seen:
    """Keys that went by. Halves of them tell most of them apart, four times as fast."""

    def __init__(self) -> None:
        self._halves: set[int] = set()
        self._keys: list[np.ndarray] = []
        self._whole: set[bytes] | None = None  # made when two halves are equal

    def new(self, keys: np.ndarray) -> np.ndarray:
        """Which of the keys, uint8 (R, 16), no earlier one equals."""
        if self._whole is None:
            halves = np.ascontiguousarray(keys).view(np.uint64)[:, 0].tolist()
            before = len(self._halves)
            self._halves.update(halves)
            if len(self._halves) == before + len(keys):
                self._keys.append(keys)
                return np.ones(len(keys), bool)
            self._whole = {key.tobytes() for keys in self._keys for key in keys}
            self._keys.clear()
        found = np.zeros(len(keys), bool)
        for n, key in enumerate(map(bytes, keys)):
            found[n] = key not in self._whole
            self._whole.add(key)
        return found


def records(store: Store, paths: list[str], shape: Shape, wanted: list[np.ndarray]) -> Batches:
    """The wanted rows of the parts as records, in order; `wanted` has a mask for each part."""
    names, carried = shape.schema.names[1:], len(shape.carried)
    for path, wanted_R in zip(paths, wanted, strict=True):
        if not wanted_R.any():
            continue
        keys, made, first = kept(store, path), [], 0
        columns = names if keys is not None else [*names, "input_hash"]
        with opened(store, path) as file:
            for batch in batches(file, columns):
                here = slice(first, first + len(batch))
                first += len(batch)
                if keys is None:  # in the same pass
                    told = [*batch.columns[:carried], batch.columns[-1]]
                    made.append(digests(told, KEY_BYTES))
                if wanted_R[here].any():
                    key = _column(made[-1] if keys is None else keys[here])
                    arrays = [key, *batch.columns[: len(names)]]
                    whole = pa.RecordBatch.from_arrays(arrays, schema=shape.schema)
                    all_R = wanted_R[here].all()
                    yield whole if all_R else whole.filter(pa.array(wanted_R[here]))
        if keys is None:
            leave(store, path, made)


def _column(keys: np.ndarray) -> pa.Array:
    data = pa.py_buffer(np.ascontiguousarray(keys))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, data])


def batches(file: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """The columns of a part in batches of bounded size, in the order of `names`."""
    for batch in file.iter_batches(batch_rows(file.metadata, names), columns=names):
        yield batch.select(names)


def batch_rows(metadata: pq.FileMetaData, names: Iterable[str]) -> int:
    """How many rows of these columns to hold at once."""
    wanted, size = set(names), 1
    for group in range(metadata.num_row_groups):
        chunks = metadata.row_group(group)
        for n in range(chunks.num_columns):
            chunk = chunks.column(n)
            if chunk.path_in_schema.partition(".")[0] in wanted or "." in chunk.path_in_schema:
                size += chunk.total_uncompressed_size
    rows = BATCH_BYTES * metadata.num_rows // size
    return int(min(BATCH_ROWS, max(rows, 1)))


def gather(
    come: Iterable[pa.RecordBatch], rows: int, size: int = BATCH_BYTES
) -> Iterator[pa.Table]:
    """Batches put together until they have so many rows or bytes: small parts are many."""
    held: list[pa.RecordBatch] = []
    for batch in come:
        held.append(batch)
        if sum(map(len, held)) >= rows or sum(b.nbytes for b in held) >= size:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def portions(come: Iterator[pa.RecordBatch], rows: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """The batches in runs of at least so many rows; each run is used up before the next."""
    for first in come:

        def run(first: pa.RecordBatch = first) -> Iterator[pa.RecordBatch]:
            yield first
            left = rows - len(first)
            while left > 0 and (batch := next(come, None)) is not None:
                left -= len(batch)
                yield batch

        yield run()


def side_by_side(call: Callable[[S], T], items: Iterable[S], at_once: int = 4) -> Iterator[T]:
    """What the call gives for each item, in order, a few of them at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        begun: deque[Future[T]] = deque()
        for item in items:
            begun.append(pool.submit(call, item))
            if len(begun) > 2 * at_once:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same items, read by a thread of their own while the last ones are worked on."""
    line: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def read() -> None:
        last: tuple[str, BaseException | None] = ("end", None)
        try:
            for item in items:
                _put(line, ("item", item), stop)
                if stop.is_set():
                    return
        except BaseException as error:
            last = ("error", error)
        _put(line, last, stop)

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            kind, value = line.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()


def _put(line: queue.Queue, what: tuple, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            return line.put(what, timeout=0.1)
        except queue.Full:
            continue
