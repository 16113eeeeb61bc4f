"""The frozen ranges of int8 columns: what a code means, the same in every part of an output.

One immutable object a column in the output, named by the fingerprint and by what the column is.
It is created once; all later runs of that fingerprint read it. A range is (2, D) fp32: the least
and the greatest value of each dimension over a sample of the input.
"""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa

from embedmill.pipeline.identity import digest
from embedmill.pipeline.snapshot.read import read_table
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.columns import RANGES
from embedmill.schemas.plan import Plan, VectorColumn


def range_name(plan: Plan, column: VectorColumn) -> str:
    """The object of a column's range; two columns that differ in name only share it."""
    facts = [column.source, column.pooling, column.normalize, column.dtype, column.dim]
    return f"_embed/ranges/{plan.fingerprint[:12]}-{digest(facts)[:16]}.arrow"


def range_table(range_2D: np.ndarray) -> pa.Table:
    """A range as it is stored, one row a dimension."""
    return pa.table([pa.array(row_D, pa.float32()) for row_D in range_2D], schema=RANGES)


def ranges_of(plan: Plan) -> dict[str, np.ndarray]:
    """The ranges of a plan's int8 columns by column name; StorageError if one is not the plan's.

    Empty for a plan that has none, because no row of its input could be encoded.
    """
    names = {c.name: range_name(plan, c) for c in plan.columns if c.kind == "int8"}
    return {
        column: _read(plan.output, name, plan.ranges[name])
        for column, name in names.items()
        if name in plan.ranges
    }


def steps(range_2D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each dimension begins and how wide a step is, fp32: 0 of a constant dimension."""
    low_D = range_2D[0].astype(np.float32)
    return low_D, (range_2D[1].astype(np.float32) - low_D) / np.float32(255)


def dequantize(codes_RD: np.ndarray, range_2D: np.ndarray) -> np.ndarray:
    """int8 codes as fp32 values, (R, D): the middle of each step."""
    low_D, step_D = steps(range_2D)
    return low_D + (codes_RD.astype(np.float32) + np.float32(128.5)) * step_D


@functools.lru_cache(maxsize=64)
def _read(output: str, name: str, sha256: str) -> np.ndarray:
    table = read_table(open_store(output), name, sha256)
    return np.stack([table.column(name).to_numpy() for name in RANGES.names])
