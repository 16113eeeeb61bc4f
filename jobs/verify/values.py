"""Whether the values of an output column can be what was committed: one check a kind of column."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from embedmill.pipeline.index.values import vectors_of
from embedmill.pipeline.parts.write import floats_in
from embedmill.pipeline.store.output import Store
from embedmill.schemas.columns import vector_type
from embedmill.schemas.plan import Plan, VectorColumn

NORM_TOLERANCE = 1e-3  # float16 keeps a norm to about 3e-4
Bad = dict[str, int]  # what is wrong -> values that have it; 0 = none


def bad_values(batch: pa.RecordBatch, column: VectorColumn) -> Bad:
    """How many values of a column have what is wrong with them."""
    values = batch.column(column.name)
    if values.null_count:
        return {f"a {column.name} that is null": values.null_count}
    if not values.type.equals(vector_type(column)):
        return {f"a {column.name} that is {values.type}": len(values)}
    return CHECKS[column.kind](batch, column)


def check_ranges(store: Store, plan: Plan | None) -> Iterator[str]:
    """A line for each range of an int8 column that is gone or not the plan's."""
    do = "restore it from a copy, or run into a new output.path"
    for name, sha256 in (plan.ranges if plan else {}).items():
        where = store.where(name)
        if store.size(name) is None:
            yield f"{where}: is gone; {do}"
        elif hashlib.sha256(store.read(name)).hexdigest() != sha256:
            yield f"{where}: its sha256 is not that of the plan; {do}"


def _vectors(batch: pa.RecordBatch, column: VectorColumn) -> Bad:
    return _norms(vectors_of(batch.column(column.name)), column)


def _norms(vectors_RD: np.ndarray, column: VectorColumn) -> Bad:
    vectors_RD = vectors_RD.astype(np.float32, copy=False)
    norm_R = np.sqrt(np.einsum("rd,rd->r", vectors_RD, vectors_RD, dtype=np.float64))
    finite_R = np.isfinite(norm_R)
    wrong_R = (np.abs(norm_R - 1) > NORM_TOLERANCE) if column.normalize else norm_R == 0
    return {
        f"a {column.name} that is not finite": int((~finite_R).sum()),
        f"a {column.name} of a wrong norm": int((wrong_R & finite_R).sum()),
    }


def _tokens(batch: pa.RecordBatch, column: VectorColumn) -> Bad:
    values = batch.column(column.name)
    count_R = values.value_lengths().to_numpy(zero_copy_only=False)
    n_tokens_R = batch.column("n_tokens").to_numpy(zero_copy_only=False)
    other = {f"a {column.name} of other than n_tokens": int((count_R != n_tokens_R).sum())}
    return other | _norms(vectors_of(values.flatten()), column)


def _scores(batch: pa.RecordBatch, column: VectorColumn) -> Bad:
    (flat,) = floats_in(batch.column(column.name))
    bad_R = ~np.isfinite(flat.reshape(len(batch), -1)).all(axis=1)
    return {f"a {column.name} that is not finite": int(bad_R.sum())}


def _sparse(batch: pa.RecordBatch, column: VectorColumn) -> Bad:
    values = batch.column(column.name)
    index_N, value_N = (
        array.to_numpy(zero_copy_only=False) for array in values.flatten().flatten()
    )
    row_N = np.repeat(np.arange(len(values)), values.value_lengths().to_numpy())
    wrong_N = (index_N < 0) | (index_N >= column.dim)
    wrong_N[1:] |= (np.diff(index_N) <= 0) & (np.diff(row_N) == 0)
    return {
        f"a {column.name} with nothing in it": len(values) - len(np.unique(row_N)),
        f"a {column.name} whose indices are not rising": len(np.unique(row_N[wrong_N])),
        f"a {column.name} that is not finite and above 0": len(
            np.unique(row_N[~((value_N > 0) & np.isfinite(value_N))])
        ),
    }


# int8 and binary: every byte may be one that was stored.
CHECKS: dict[str, Callable[[pa.RecordBatch, VectorColumn], Bad]] = {
    "float": _vectors,
    "int8": lambda batch, column: {},
    "binary": lambda batch, column: {},
    "tokens": _tokens,
    "scores": _scores,
    "sparse": _sparse,
}
