"""A pack's values as Arrow arrays, in the type of their output column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from embedmill.schemas.columns import vector_type
from embedmill.schemas.plan import VectorColumn


def as_arrow(column: VectorColumn, values: np.ndarray, cu_S1: np.ndarray) -> pa.Array:
    """A pack's stored values as Arrow, one a sequence; `values` are (S, …), or (T, dim) of tokens.

    Sparse values come dense, (S, vocabulary), and only those that are not zero are kept.
    """
    kind = vector_type(column)
    flat = pa.array(values.reshape(-1))
    if column.kind == "tokens":
        tokens = pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)
        return pa.ListArray.from_arrays(pa.array(cu_S1, pa.int32()), tokens, type=kind)
    if column.kind == "sparse":
        sequence_N, index_N = np.nonzero(values)
        entry_N = pa.StructArray.from_arrays(
            [pa.array(index_N, pa.int32()), pa.array(values[sequence_N, index_N])],
            fields=list(kind.value_type),
        )
        cu = np.searchsorted(sequence_N, np.arange(len(values) + 1))
        return pa.ListArray.from_arrays(pa.array(cu, pa.int32()), entry_N, type=kind)
    if column.kind == "binary":
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, flat.buffers()[1]])
    return flat if kind == flat.type else pa.FixedSizeListArray.from_arrays(flat, type=kind)
