"""Whether a sink holds what it should and finds what it should: a sample, against the parts.

Sampled records are read back and compared with their rows. Then their vectors are asked for, and
what the sink finds is compared with exact search over every vector of the snapshot: one pass.
Q queries, R rows of a batch, K = 10 hits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from embedmill.pipeline.index.records import batches, keys_of, opened, records
from embedmill.pipeline.index.sink import Shape, Sink
from embedmill.pipeline.index.values import DECODERS, bits_of, plain
from embedmill.pipeline.store.output import Store

K, SAMPLE = 10, 100
EPSILON = 1e-5  # by which two ways to compute one score may differ, for vectors of length 1
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "int8": 1e-5}  # of a value that is read back


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check saw."""

    sampled: int  # records that were read back, and whose vectors were asked for
    wrong: list[str]  # what was not as it should be, the first few
    recall: float  # recall@10; 1 where there is nothing to find


def check(
    sink: Sink, store: Store, paths: Sequence[str], stands: Sequence[np.ndarray],
    range_2D: np.ndarray | None,
) -> Checked:  # fmt: skip
    """`stands`: for each part, which rows have a record: bool (R,)."""
    sample = _sample(store, paths, stands, sink.shape)
    if not len(sample):
        return Checked(0, [], 1.0)
    keys = bits_of(sample.column(0))
    decode = DECODERS[sink.shape.column.kind]
    vectors_QD = decode(sample.column(sample.num_columns - 1), range_2D).astype(np.float64)
    found = [sink.nearest(query_D, K, (), ()) for query_D in vectors_QD]
    hits = [[hit.key for hit in some] for some in found]
    recall = _recall(sink.shape, store, paths, stands, range_2D, vectors_QD, hits)
    return Checked(len(sample), _wrong(sink, sample, keys, range_2D)[:5], recall)


def _sample(
    store: Store, paths: Sequence[str], stands: Sequence[np.ndarray], shape: Shape
) -> pa.RecordBatch:
    """Records of everywhere; those of the first part and the last are among them."""
    ends = np.cumsum([0, *(int(stands_R.sum()) for stands_R in stands)])
    chosen = np.unique(np.linspace(0, ends[-1] - 1, min(SAMPLE, int(ends[-1]))).astype(np.int64))
    masks = []
    for n, stands_R in enumerate(stands):
        here = chosen[(chosen >= ends[n]) & (chosen < ends[n + 1])] - ends[n]
        mask = np.zeros(len(stands_R), bool)
        mask[np.flatnonzero(stands_R)[here]] = True
        masks.append(mask)
    table = pa.Table.from_batches(records(store, list(paths), shape, masks), shape.schema)
    whole = table.combine_chunks().to_batches()
    return whole[0] if whole else pa.RecordBatch.from_pylist([], shape.schema)


def _wrong(
    sink: Sink, sample: pa.RecordBatch, keys: np.ndarray, range_2D: np.ndarray | None
) -> list[str]:
    """What a sample reads back as otherwise than it should, a line for each record."""
    there, lines, shape = sink.fetch(keys), [], sink.shape
    names = [field.name for field in shape.carried]
    rows = sink.stored(sample).select(names).to_pylist()
    vectors_QD = DECODERS[shape.column.kind](sample.column(sample.num_columns - 1), range_2D)
    for key, row, vector_D in zip(keys, rows, vectors_QD, strict=True):
        label = f"record of {shape.id_column} {plain(row[shape.id_column])!r}"
        if (record := there.get(key.tobytes())) is None:
            lines.append(f"{label} is not there")
            continue
        carried, vector = record
        differ = [name for name in names if not _equal(carried[name], plain(row[name]))]
        if not _same(shape, vector, vector_D):
            differ.append(shape.column.name)
        if differ:
            lines.append(f"{label} has another {', '.join(differ)}")
    return lines


def _equal(found: Any, value: Any) -> bool:
    """Whether two plain values are one; a sink may lose the last bit, or the point, of a number."""
    if float in (type(found), type(value)) and {type(found), type(value)} <= {float, int}:
        return math.isclose(found, value, rel_tol=1e-14)
    if isinstance(found, list) and isinstance(value, list):
        return len(found) == len(value) and all(map(_equal, found, value))
    if isinstance(found, dict) and isinstance(value, dict):
        return found.keys() == value.keys() and all(_equal(found[k], value[k]) for k in value)
    return found == value


def _same(shape: Shape, found: np.ndarray, vector_D: np.ndarray) -> bool:
    """Whether a stored vector is the row's; a sink may have made its length 1 for cosine."""
    if shape.column.kind == "binary":
        return np.array_equal(np.unpackbits(np.asarray(found, np.uint8)), vector_D > 0)
    a, b = np.asarray(found, np.float64), vector_D.astype(np.float64)
    if len(a) != len(b):
        return False
    if shape.metric == "cosine":
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return np.allclose(a, b, rtol=TOLERANCE[shape.column.dtype], atol=TOLERANCE[shape.column.dtype])


def _recall(
    shape: Shape, store: Store, paths: Sequence[str], stands: Sequence[np.ndarray],
    range_2D: np.ndarray | None, vectors_QD: np.ndarray, hits: list[list[bytes]],
) -> float:  # fmt: skip
    """Share of the best K of each query that were found; one of equal score is as good."""
    best_QK = np.full((len(vectors_QD), K), -np.inf)
    wanted = {key for some in hits for key in some}
    wanted_H = np.array([int.from_bytes(key[:8], "little") for key in wanted], "<u8")
    scores: dict[bytes, np.ndarray] = {}
    queries_QD = _measured(shape, vectors_QD)
    for path, stands_R in zip(paths, stands, strict=True):
        keys, first = keys_of(store, path, shape), 0
        with opened(store, path) as file:
            for batch in batches(file, [shape.column.name]):
                here = slice(first, first + len(batch))
                first += len(batch)
                keep = np.flatnonzero(stands_R[here])
                vectors_RD = DECODERS[shape.column.kind](batch.column(0), range_2D)[keep]
                score_QR = _scores(shape, queries_QD, vectors_RD.astype(np.float64))
                both = np.concatenate([best_QK, score_QR], axis=1)
                best_QK = -np.partition(-both, K - 1, axis=1)[:, :K]
                mine = np.ascontiguousarray(keys[here][keep])
                for n in np.flatnonzero(np.isin(mine.view("<u8")[:, 0], wanted_H)):
                    if (key := mine[n].tobytes()) in wanted:
                        scores[key] = score_QR[:, n]
    got = most = 0
    for q, some in enumerate(hits):
        reachable = best_QK[q][np.isfinite(best_QK[q])]
        bar = reachable.min(initial=np.inf) - EPSILON * max(1.0, abs(reachable).max(initial=0))
        most += len(reachable)
        got += sum(1 for key in set(some) if key in scores and scores[key][q] >= bar)
    return got / most if most else 1.0


def _measured(shape: Shape, vectors: np.ndarray) -> np.ndarray:
    """Vectors so that their dot product is the score, but for l2."""
    if shape.metric in ("cosine", "hamming"):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _scores(shape: Shape, queries_QD: np.ndarray, vectors_RD: np.ndarray) -> np.ndarray:
    if shape.metric == "l2":
        squares = (queries_QD**2).sum(1)[:, None] + (vectors_RD**2).sum(1)[None]
        return -np.sqrt(np.maximum(squares - 2 * queries_QD @ vectors_RD.T, 0))
    return queries_QD @ _measured(shape, vectors_RD).T
