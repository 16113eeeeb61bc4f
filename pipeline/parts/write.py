"""A unit's table as the bytes of one Parquet part. Equal tables give equal bytes.

Page checksums on, so that a flipped bit is found by whoever asks; no dictionary and no statistics
for vectors, which have nothing to gain from them; no time and no run id anywhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.schemas.errors import StorageError
from embedmill.schemas.footer import FOOTER_KEY, Footer

ROW_GROUP = 16384


def part_bytes(table: pa.Table, vectors: list[str], footer: Footer) -> pa.Buffer:
    """The part with `footer` as canonical JSON in its key-value metadata; checked by reopening."""
    # In one chunk, because page borders follow chunks, and those differ between runners.
    table = table.replace_schema_metadata({FOOTER_KEY: footer.to_bytes()}).combine_chunks()
    leaves = {column.path: column.path.partition(".")[0] for column in _leaves(table.schema)}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression={
            leaf: "none" if name in vectors and _is_noise(table.schema.field(name).type) else "zstd"
            for leaf, name in leaves.items()
        },
        use_dictionary=False,
        write_statistics=[leaf for leaf, name in leaves.items() if name not in vectors],
        write_page_checksum=True,
    )
    data = sink.getvalue()
    _check(data, table, vectors)
    return data


def floats_in(column: pa.Array) -> Iterator[np.ndarray]:
    """All floating-point values of an output column, however deep they lie; without a copy."""
    if pa.types.is_struct(column.type):
        for inner in column.flatten():
            yield from floats_in(inner)
    elif pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        yield from floats_in(column.flatten())
    elif pa.types.is_floating(column.type):
        yield column.to_numpy(zero_copy_only=False)


def _is_noise(kind: pa.DataType) -> bool:
    """Whether compression would gain nothing: floats and bits, not int8 (stored as int32)."""
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return pa.types.is_floating(kind) or pa.types.is_fixed_size_binary(kind)


def _leaves(schema: pa.Schema) -> list[pq.ColumnSchema]:
    """Leaf columns as Parquet names them, learned from an empty file of the same schema."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(sink).schema
    return [parquet.column(i) for i in range(len(parquet.names))]


def _check(data: pa.Buffer, table: pa.Table, vectors: list[str]) -> None:
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    rows = 0
    for batch in file.iter_batches(ROW_GROUP, columns=vectors):
        rows += len(batch)
        for column in batch.columns:
            if not all(np.isfinite(values).all() for values in floats_in(column)):
                raise StorageError(
                    "PART_NOT_FINITE",
                    "",
                    "a vector that is not finite reached a part. This is a bug.",
                )
    if rows != len(table) or not file.schema_arrow.equals(table.schema):
        raise StorageError(
            "PART_DIFFERS", "", "a part does not read back as written", "check memory and disk"
        )
