"""The one reader of committed parts: pages checked, damage reported as a StorageError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.pipeline.store.output import Store
from embedmill.schemas.errors import StorageError


@contextmanager
def opened(store: Store, path: str, buffer_size: int = 0) -> Iterator[pq.ParquetFile]:
    """Opens a part; StorageError if it is gone, or damaged where the block reads it.

    buffer_size: bytes read ahead at once; 0 reads a column of a row group whole.
    """
    where = store.where(path)
    try:
        with store.open(path) as source:
            yield pq.ParquetFile(
                source,
                page_checksum_verification=True,
                pre_buffer=False,
                buffer_size=buffer_size,
            )
    except FileNotFoundError:
        do = "do it again if a run has just ended, else run verify"
        raise StorageError("OBJECT_GONE", where, "is named by the snapshot but gone", do) from None
    except (pa.ArrowException, OSError) as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise StorageError(
            "PART_CORRUPT", where, f"cannot be read ({what})", "run verify"
        ) from None
