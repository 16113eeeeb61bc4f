"""The rows beside a FAISS index: a Parquet file of `faiss_id`, key, id and kept columns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from embedmill.pipeline.index.records import batch_rows
from embedmill.pipeline.index.sink import KEY, KEY_BYTES
from embedmill.schemas.errors import StorageError

ID, ROWS = "faiss_id", "rows.parquet"
KNOWN = pa.schema([(ID, pa.int64()), (KEY, pa.binary(KEY_BYTES))])


class Rows:
    """The rows of a load. What is known of all of them is their id and their key."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: of the load; None: there are none."""
        self.folder = folder
        self._known: pa.Table | None = None

    def known(self) -> pa.Table:
        """Id and key of every row, in the order of the file."""
        if self._known is None:
            self._known = self.select(None, KNOWN.names) if self.folder else KNOWN.empty_table()
        return self._known

    def ids(self) -> np.ndarray:
        """The ids, int64, rising."""
        return self.known().column(ID).to_numpy()

    def next_id(self) -> int:
        """The id of the next row that comes."""
        return int(self.ids().max(initial=-1)) + 1

    def keys(self) -> Iterator[np.ndarray]:
        """The keys, uint8 (n, 16), some at a time."""
        for chunk in self.known().column(KEY).chunks:
            data = np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, KEY_BYTES)
            yield data[chunk.offset : chunk.offset + len(chunk)]

    def among(self, keys: np.ndarray) -> np.ndarray:
        """Which rows have one of the keys, bool (R,)."""
        wanted = pa.array([key.tobytes() for key in keys], pa.binary(KEY_BYTES))
        return np.asarray(pc.is_in(self.known().column(KEY), wanted), bool)

    def select(self, wanted: pc.Expression | None, names: list[str]) -> pa.Table:
        """Some columns of some rows."""
        try:
            return ds.dataset(self.folder / ROWS).to_table(columns=names, filter=wanted)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.folder, error) from None

    def write(
        self, folder: Path, schema: pa.Schema, gone_R: np.ndarray, come: Iterator[pa.RecordBatch]
    ) -> Iterator[pa.Array]:
        """Rows of a new load in another folder: these without `gone_R`, and the records that come.

        Yields the vectors of each batch that comes; the new rows are these rows from then on.
        """
        schema = pa.schema([pa.field(ID, pa.int64(), nullable=False), *list(schema)[:-1]])
        number = self.next_id()
        known = [KNOWN.empty_table()]
        with pq.ParquetWriter(folder / ROWS, schema) as writer:
            for table in self._surviving(gone_R):
                writer.write_table(table)
                known.append(table.select(KNOWN.names).cast(KNOWN))
            for batch in come:
                ids = pa.array(np.arange(number, number + len(batch)))
                table = pa.Table.from_arrays([ids, *batch.columns[:-1]], schema=schema)
                writer.write_table(table)
                known.append(table.select(KNOWN.names).cast(KNOWN))
                number += len(batch)
                yield batch.column(batch.num_columns - 1)
        self.folder, self._known = folder, pa.concat_tables(known)

    def _surviving(self, gone_R: np.ndarray) -> Iterator[pa.Table]:
        if self.folder is None:
            return
        first = 0
        with pq.ParquetFile(self.folder / ROWS) as file:
            for batch in file.iter_batches(batch_rows(file.metadata, file.schema_arrow.names)):
                stays = pa.array(~gone_R[first : first + len(batch)])
                first += len(batch)
                yield pa.Table.from_batches([batch]).filter(stays)


def sync(path: Path) -> None:
    """Has a file on the disk before it is seen."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def damaged(folder: Path | None, error: Exception) -> StorageError:
    """A file of a load that cannot be read."""
    what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return StorageError("SINK", str(folder), what, "delete the folder and index again")
