"""What a load beside has written so far, noted in the sink's own folder: how it is resumed.

PATH/_embedmill/LOAD/HASH.arrow     a fragment, and the keys of its records
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from embedmill.pipeline.identity import digest
from embedmill.pipeline.index.keys import keys_in
from embedmill.pipeline.index.sink import KEY, KEY_BYTES
from embedmill.pipeline.store.output import open_store

FOLDER, WRITTEN = "_embedmill", b"written"


class Receipts:
    """The receipts of loads in a sink at a path or in a bucket."""

    def __init__(self, path: str) -> None:
        self._store, self._load = open_store(path), ""

    def begin(self, load: str) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """What was written of this load, each with its keys; other loads are forgotten."""
        self._load = f"{FOLDER}/{load}/"
        for name in list(self._store.list(FOLDER)):
            if name.startswith(self._load):
                receipt = pa.ipc.open_file(self._store.read(name)).read_all()
                written = json.loads(receipt.schema.metadata[WRITTEN])
                yield written, keys_in(receipt.column(KEY).combine_chunks())
            else:
                self._store.delete(name)

    def beside(self) -> Iterator[str]:
        """The names of all that lies at the path."""
        return iter(self._store.list(""))

    def add(self, written: dict[str, Any], keys: np.ndarray) -> None:
        """Notes what was written."""
        column = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(KEY_BYTES), len(keys), [None, pa.py_buffer(keys.tobytes())]
        )
        told = {WRITTEN: json.dumps(written).encode()}
        schema = pa.schema([(KEY, column.type)], metadata=told)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch([column], schema=schema))
        self._store.create(f"{self._load}{digest(written)[:16]}.arrow", sink.getvalue())

    def clear(self) -> None:
        """Forgets all loads."""
        for name in list(self._store.list(FOLDER)):
            self._store.delete(name)
