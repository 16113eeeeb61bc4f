"""Units on their way into Ray Data: by the chunk, made into rows where there is room for them.

A million units as one table of pickles are half a gigabyte in the head's memory before the first of
them is begun. A chunk names each of its shards once, so all of them are some hundred megabytes, and
its rows come to be only when a read task is run, as fast as the encoders take them.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from ray.data import Dataset, read_datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from embedmill.pipeline.run.pool_size import FEED_CPUS
from embedmill.schemas.plan import Unit

CELL = pa.schema([("cell", pa.large_binary())])
# Units of a read task, at least and at most: Ray needs a millisecond for each task before the first
# is run, and makes the rows of a few of them at a time.
FEW, CHUNK = 16, 1000


def feed(units: list[Unit]) -> Dataset:
    """One row a unit, one row a block, in order; nothing of it is there before it is run."""
    size = min(CHUNK, max(FEW, len(units) // 100))
    chunks = [pickle.dumps(units[n : n + size]) for n in range(0, len(units), size)]
    source = _Chunks(chunks, len(units))
    read = read_datasource(source, num_cpus=FEED_CPUS, override_num_blocks=len(chunks))
    rows = read.repartition(target_num_rows_per_block=1)
    # It would ask for a whole CPU, and wait for ever where encoders leave less; Ray has no option.
    rows._logical_plan.dag.ray_remote_args["num_cpus"] = FEED_CPUS
    return rows


def cells(values: Iterable[Any]) -> pa.Table:
    """One row a value, pickled."""
    return pa.table([[pickle.dumps(value, protocol=5) for value in values]], schema=CELL)


def values(batch: pa.Table) -> Iterator[Any]:
    """The inverse of cells, without a copy: pickle reads straight from Ray's shared memory."""
    for scalar in batch.column("cell"):
        yield pickle.loads(memoryview(scalar.as_buffer()))


class _Chunks(Datasource):
    """One read task a chunk."""

    def __init__(self, chunks: list[bytes], units: int) -> None:
        self._chunks, self._units = chunks, units

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """A task for each chunk, whatever parallelism Ray would like."""
        return [
            ReadTask(functools.partial(_rows, chunk), BlockMetadata(None, len(chunk), None, None))
            for chunk in self._chunks
        ]

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all rows, roughly."""
        return 500 * self._units


def _rows(chunk: bytes) -> Iterator[pa.Table]:
    yield cells(pickle.loads(chunk))
