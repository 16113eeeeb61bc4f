"""Which sink a spec means, and what its records are: the one door to the sinks.

Each sink's library is an extra of its own and is imported when the sink is opened.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from embedmill.pipeline.index.records import record_schema
from embedmill.pipeline.index.sink import Shape, Sink
from embedmill.pipeline.vectors.ranges import range_name, ranges_of
from embedmill.schemas.columns import DTYPES
from embedmill.schemas.errors import SpecError
from embedmill.schemas.plan import Plan, VectorColumn
from embedmill.schemas.sinks import Index

# sink -> its module and class; Qdrant has two, for a server and for the engine in this process
SINKS = {
    "lance": ("lance.lance", "LanceSink"),
    "faiss": ("faiss.faiss", "FaissSink"),
    "pgvector": ("pgvector.pgvector", "PgvectorSink"),
    "qdrant": ("qdrant.qdrant", "QdrantSink"),
    "qdrant edge": ("qdrant.edge", "EdgeSink"),
}
KINDS = ("float", "int8", "binary")  # of columns that have one vector a row
# Vectors of so many bytes are compared one by one in some 50 ms; an approximate index costs recall.
FLAT_BYTES = 128 << 20
HNSW_BYTES = 4 << 30  # of FAISS files: a graph of more takes hours, and twice the memory


def shape_of(entry: Index, plan: Plan, rows: int) -> Shape:
    """What the records of a sink are, for a snapshot of so many vectors."""
    column = _column(entry, plan)
    kind = entry.type if entry.type != "auto" else _type(entry.sink, column, rows)
    return Shape(
        fingerprint=plan.fingerprint,
        column=column,
        metric="hamming" if column.kind == "binary" else entry.metric,
        type=kind,
        id_column=plan.id_column,
        schema=record_schema(plan, column),
        ranges=plan.ranges.get(range_name(plan, column), "") if column.kind == "int8" else "",
    )


def open_sink(entry: Index, shape: Shape, plan: Plan) -> Sink:
    """The sink, not yet begun; SpecError if a library is missing or it cannot hold the records."""
    edge = entry.sink == "qdrant" and entry.path is not None
    name, kind = SINKS["qdrant edge" if edge else entry.sink]
    try:
        room = importlib.import_module(f"embedmill.pipeline.index.{name}")
    except ModuleNotFoundError as error:
        what = f"index: {entry.sink} needs {error.name}; run pip install 'embedmill[{entry.sink}]'"
        raise SpecError("EXTRA_MISSING", "", what) from None
    make = getattr(room, kind)
    if entry.sink == "pgvector":
        return make(entry.url, entry.table, shape)
    if entry.sink == "qdrant" and not edge:
        return make(entry.url, entry.collection, shape)
    if entry.sink == "faiss":
        return make(entry.path, shape, ranges_of(plan).get(shape.column.name))
    return make(entry.path, shape)


def place_of(entry: Index) -> str:
    """Where a sink is, for people."""
    if entry.path is not None:
        return entry.path
    return " ".join(part for part in (entry.url, entry.table or entry.collection) if part)


def absolute(entry: Index) -> Index:
    """The same sink as seen from any folder."""
    if entry.path is None or "://" in entry.path:
        return entry
    return entry.model_copy(update={"path": str(Path(os.path.expanduser(entry.path)).absolute())})


def _column(entry: Index, plan: Plan) -> VectorColumn:
    known = {column.name: column for column in plan.columns if column.kind in KINDS}
    if entry.column is None and known:
        return next(iter(known.values()))
    if entry.column not in known:
        kinds = {column.name: f"holds {column.kind}" for column in plan.columns}
        said = f"{entry.column!r} {kinds.get(entry.column, 'is no vector column')}; "
        fits = ", ".join(known) or "none"
        what = f"index: {said if entry.column else ''}columns with one vector a row: {fits}"
        raise SpecError("COLUMN", "", what)
    return known[entry.column]


def _type(sink: str, column: VectorColumn, rows: int) -> str:
    bits = 1 if column.kind == "binary" else DTYPES[column.dtype].bit_width
    size = rows * column.dim * bits // 8
    if size <= FLAT_BYTES or (sink == "faiss" and column.kind == "int8"):
        return "flat"
    return "ivf" if sink == "faiss" and size > HNSW_BYTES else "hnsw"
