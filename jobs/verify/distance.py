"""How far a stored value is from what the reference gives, and whether that is too far.

What is stored is compared as numbers: an int8 code as the middle of its step, a bit as 1 or -1.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from embedmill.pipeline.index.values import signs_of, vectors_of
from embedmill.pipeline.parts.write import floats_in
from embedmill.pipeline.vectors.ranges import dequantize, steps
from embedmill.schemas.plan import VectorColumn

EXACT = 1e-5  # most that a value of a vector of norm 1 may differ by in fp32
LEAST = {"exact": 1.0, "fast": 0.999, "int8": 0.95}  # cosine of a vector, by precision
SCORE = {"exact": EXACT, "fast": 0.05, "int8": 0.5}  # most that a score may differ by
HALF = 2.0**-11  # float16 rounds a value by this share of it
WIDEST = float(np.finfo(np.float64).max)


def stored_value(column: pa.Array, about: VectorColumn, range_2D: np.ndarray | None) -> np.ndarray:
    """The value of a column of one row, float64: (D,); of tokens (T, D)."""
    if about.kind == "binary":
        return signs_of(column)[0].astype(np.float64)
    if about.kind == "int8":
        return dequantize(vectors_of(column), range_2D)[0].astype(np.float64)
    if about.kind == "sparse":
        index_N, value_N = column.flatten().flatten()
        dense_D = np.zeros(about.dim)
        dense_D[index_N.to_numpy()] = value_N.to_numpy()
        return dense_D
    (flat,) = floats_in(column)
    shape = (-1, about.dim) if about.kind == "tokens" else (about.dim,)
    return flat.reshape(shape).astype(np.float64)


def distance(
    column: VectorColumn, got: np.ndarray, want: np.ndarray, *, precision: str,
    range_2D: np.ndarray | None,
) -> tuple[float, float, float]:  # fmt: skip
    """(cosine, largest difference, how many times what is allowed); above 1 is a problem.

    Differences are of vectors scaled by the norm of the reference's; those of scores are not.
    """
    if got.shape != want.shape or not np.isfinite(got).all():
        return -1.0, WIDEST, float("inf")
    scale = 1.0 if column.kind == "scores" else float(np.linalg.norm(want)) or 1.0
    exact, least = precision == "exact", LEAST[precision]
    slack = EXACT if exact else float(np.sqrt(2 * (1 - least)))
    rounding = 0.0
    if column.dtype == "float16":
        rounding = HALF * float(np.abs(want).max()) / scale
    if column.kind == "int8":
        low_D, step_D = steps(range_2D)
        want = np.clip(want, low_D, np.maximum(range_2D[1], low_D))
        rounding = float(step_D.max()) / scale  # half a step, and a whole one at its border
    if column.kind == "binary":  # a value so near to 0 that rounding decides may be either
        want, scale = np.where(np.abs(want) <= slack * scale, got, np.where(want > 0, 1, -1)), 1.0
    diff = float(np.abs(got - want).max()) / scale
    norms = float(np.linalg.norm(got) * np.linalg.norm(want))
    cosine = float(np.vdot(got, want)) / norms if norms else 1.0
    if exact:
        return cosine, diff, diff / (EXACT + rounding)
    over = diff / SCORE[precision] if column.kind == "scores" else (1 - cosine) / (1 - least)
    return cosine, diff, over
