"""A sample of a snapshot's rows: enough to look at, whatever the size of the corpus.

Up to PLACES row groups, spread evenly over the snapshot, stream past; lengths are counted of all
their rows, and every n-th row is kept whole. A small snapshot is read from end to end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.jobs.search.exact import DECODERS, plain
from embedmill.pipeline.parts.write import ROW_GROUP
from embedmill.pipeline.store.output import Store
from embedmill.pipeline.store.parts import opened
from embedmill.pipeline.vectors.ranges import ranges_of
from embedmill.schemas.plan import Plan, VectorColumn

PLACES = 8
BATCH_ROWS = 512
MOST_ROWS, MOST_BYTES = 6000, 1 << 26  # of the rows that are kept, as float32
READ_BUFFER = 1 << 20  # of a column: a row group of it may have hundreds of megabytes
MOST_TOKENS = 1 << 16  # a row of many windows may have millions; it counts as this
MOST_CHARS = 80  # of a value that is shown


@dataclass(slots=True)
class Sample:
    """Rows of a snapshot. N kept rows, D wide."""

    rows: int  # of the snapshot's parts: what it stands for
    seen: int = 0  # rows whose lengths were counted
    cut: int = 0  # of them lost text
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))  # [t] rows of t
    column: VectorColumn | None = None  # whose vectors they are; None = none can be compared
    labels: list[str] = field(default_factory=list)  # N: the id, then the kept columns
    vectors_ND: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def draw_sample(store: Store, plan: Plan, parts: pa.Table) -> Sample:
    """Rows of the parts (schemas.manifest.PART_TABLE), in their order."""
    of_part = np.array(parts.column("vectors").to_pylist(), np.int64)
    sample = Sample(rows=int(of_part.sum()))
    known = [column for column in plan.columns if column.kind in DECODERS]
    sample.column = known[0] if known else None
    most = min(MOST_ROWS, MOST_BYTES // (4 * sample.column.dim)) if sample.column else MOST_ROWS
    every = max(1, -(-min(sample.rows, PLACES * ROW_GROUP) // max(most, 1)))
    paths = parts.column("path").to_pylist()
    taken: list[np.ndarray] = []
    for part, row in _places(of_part):
        for batch in _batches(store, plan, sample.column, paths[part], row):
            _count(sample, batch)
            kept = batch.take(pa.array(np.arange(-sample.seen % every, len(batch), every)))
            sample.seen += len(batch)
            sample.labels += _labels(plan, kept)
            if sample.column:
                range_2D = ranges_of(plan).get(sample.column.name)
                values = DECODERS[sample.column.kind](kept.column(sample.column.name), range_2D)
                taken.append(values.astype(np.float32))
    if taken:
        sample.vectors_ND = np.concatenate(taken)
    return sample


def shown(value: Any) -> str:
    """A value as a short text that can be shown: no control and no direction characters."""
    text = value if isinstance(value, str) else "" if value is None else str(plain(value))
    text = " ".join(text[: 4 * MOST_CHARS].split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= MOST_CHARS else f"{text[: MOST_CHARS - 1]}…"


def _places(of_part: np.ndarray) -> Iterator[tuple[int, int | None]]:
    """(part, row in it) whose row group is to be read; row None = the whole part."""
    ends = np.cumsum(of_part)
    total = int(ends[-1]) if len(ends) else 0
    if total <= PLACES * ROW_GROUP:
        yield from ((part, None) for part in np.flatnonzero(of_part).tolist())
        return
    for place in range(PLACES):
        at = int((place + 0.5) * total / PLACES)
        part = int(np.searchsorted(ends, at, side="right"))
        yield part, at - int(ends[part] - of_part[part])


def _batches(
    store: Store, plan: Plan, column: VectorColumn | None, path: str, row: int | None
) -> Iterator[pa.RecordBatch]:
    """A part's rows, or those of the row group that has the row; StorageError if damaged."""
    names = [plan.id_column, *plan.input["keep"], "n_tokens", "n_chars_cut"]
    names += [column.name] if column else []
    with opened(store, path, READ_BUFFER) as file:
        groups = None if row is None else [_group_of(file.metadata, row)]
        yield from file.iter_batches(BATCH_ROWS, row_groups=groups, columns=names)


def _group_of(metadata: pq.FileMetaData, row: int) -> int:
    ends = np.cumsum([metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)])
    return int(np.searchsorted(ends, row, side="right"))


def _count(sample: Sample, batch: pa.RecordBatch) -> None:
    tokens_R = np.minimum(batch.column("n_tokens").to_numpy(), MOST_TOKENS)
    counted = np.bincount(tokens_R, minlength=len(sample.tokens))
    counted[: len(sample.tokens)] += sample.tokens
    sample.tokens = counted
    sample.cut += int((batch.column("n_chars_cut").to_numpy() > 0).sum())


def _labels(plan: Plan, kept: pa.RecordBatch) -> list[str]:
    names = [plan.id_column, *plan.input["keep"]]
    rows = zip(*(kept.column(name).to_pylist() for name in names), strict=True)
    return [" · ".join(filter(None, map(shown, row))) for row in rows]
