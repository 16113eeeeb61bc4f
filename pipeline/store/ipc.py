"""Arrow tables as the bytes of one file."""

from __future__ import annotations

import pyarrow as pa


def ipc_bytes(data: pa.Table) -> pa.Buffer:
    """A table as one Arrow file; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, data.schema, options=options) as writer:
        writer.write_table(data.combine_chunks())
    return sink.getvalue()
