"""What is said to PostgreSQL. Names are quoted, values are parameters, nothing else is put in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from embedmill.pipeline.index.filters import Condition
from embedmill.pipeline.index.pgvector.binary_copy import Column
from embedmill.pipeline.index.sink import KEY, Shape
from embedmill.schemas.errors import SpecError, StorageError

SINKS = "embedmill_sinks"
SETTINGS = {"application_name": "embedmill", "lock_timeout": "60s", "timezone": "UTC"}
EXTENSION = "CREATE EXTENSION IF NOT EXISTS vector"
STATE = "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, physical text, facts text)"
UPSERT = (
    "INSERT INTO {} VALUES ($1, $2, $3) ON CONFLICT (name) "
    "DO UPDATE SET physical = EXCLUDED.physical, facts = EXCLUDED.facts"
)
TABLES = (
    "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
    "WHERE nspname = $1 AND relkind = 'r' AND starts_with(relname, $2)"
)
COLUMNS_OF = (
    "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
    "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)
SYSTEM = ("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")  # columns that every table has
NAME_BYTES = 63
# docs/indexes.md says why
M, EF_CONSTRUCTION, EF_SEARCH = 16, 100, 200
MOST_DIMS = {"float32": 2000, "float16": 4000}  # of an index; bits have enough
MEMORY = 2 << 30  # most of the server's memory that making an index asks for
OPERATORS = {"cosine": "<=>", "dot": "<#>", "l2": "<->", "hamming": "<~>"}
CLASSES = {"cosine": "cosine", "dot": "ip", "l2": "l2", "hamming": "hamming"}
SCORES = {"cosine": "1 - ({})", "dot": "- ({})", "l2": "- ({})", "hamming": "1 - 2 * ({}) / {}"}
NUMBERS = ("smallint", "integer", "bigint", "real", "double precision")


def quoted(name: str) -> str:
    """A name as an identifier, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def refuse(shape: Shape, table: str) -> None:
    """SpecError for what PostgreSQL cannot hold."""
    names = [("table", table), *(("column", name) for name in shape.schema.names)]
    for kind, name in names:
        if not name or "\0" in name or len(name.encode()) > NAME_BYTES:
            what = f"index: pgvector wants names of 1 to {NAME_BYTES} bytes; rename {kind} {name!r}"
            raise SpecError("SINK", "", what)
        if kind == "column" and name in SYSTEM:
            what = f"index: {name!r} is a column of every table of PostgreSQL; rename it"
            raise SpecError("SINK", "", what)
    if shape.column.kind == "int8":
        what = "pgvector has no int8 vectors; load a column of float16 (halfvec) or binary (bit)"
        raise SpecError("SINK", "", f"index: {what}")
    most = MOST_DIMS.get(shape.column.dtype, 64_000)
    if shape.type != "flat" and shape.column.dim > most:
        what = f"index: pgvector has no {shape.type} over {most:,} dimensions of this kind: "
        raise SpecError("SINK", "", what + "type flat, or a column of float16, binary or less dim")


def create(name: str, columns: list[Column]) -> str:
    """The table of a load, unless it was begun before. The vector lies in the row itself."""
    told = ", ".join(f"{quoted(column.name)} {column.type}" for column in columns)
    return f"CREATE TABLE IF NOT EXISTS {name} ({told})"


def index(target: str, name: str, shape: Shape, rows: int) -> Iterator[str]:
    """The statements that make the keys unique, and the index over the vectors."""
    yield f"CREATE UNIQUE INDEX IF NOT EXISTS {quoted(target + '_key')} ON {name} ({KEY})"
    if shape.type == "flat" or not rows:
        return
    kind = {"binary": "bit"}.get(shape.column.dtype, "vector")
    kind = "halfvec" if shape.column.dtype == "float16" else kind
    ops = f"{kind}_{CLASSES[shape.metric]}_ops"
    vector = quoted(shape.schema.names[-1])
    size = rows * (shape.column.dim * 4 + 24 * M)
    yield f"SET maintenance_work_mem = '{max(64, min(size * 5 // 4, MEMORY) >> 20)}MB'"
    if shape.type == "hnsw":
        made = f"USING hnsw ({vector} {ops}) WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})"
    else:
        made = f"USING ivfflat ({vector} {ops}) WITH (lists = {lists_of(rows)})"
    yield f"CREATE INDEX IF NOT EXISTS {quoted(target + '_near')} ON {name} {made}"


def lists_of(rows: int) -> int:
    """Lists of an ivfflat index, as pgvector's guide has it."""
    return max(1, rows // 1000 if rows <= 1_000_000 else int(rows**0.5))


def search_settings(shape: Shape, k: int, filtered: bool) -> Iterator[str]:
    """How far to look; with filters, on and on until there are enough."""
    if shape.type == "hnsw":
        yield f"SET hnsw.ef_search = {min(1000, max(EF_SEARCH, k))}"
        if filtered or k > 1000:
            yield "SET hnsw.iterative_scan = strict_order"
    elif shape.type == "ivf":
        yield "SET ivfflat.probes = 32"
        if filtered:
            yield "SET ivfflat.iterative_scan = relaxed_order"


def nearest(
    name: str, shape: Shape, columns: list[Column], query_D: np.ndarray, k: int,
    where: Sequence[Condition], wanted: Sequence[str],
) -> tuple[str, list[Any]]:  # fmt: skip
    """The query for the nearest records: key, score, the wanted columns; and its parameters."""
    types = {column.name: column.type for column in columns}
    vector = shape.schema.names[-1]
    distance = f"{quoted(vector)} {OPERATORS[shape.metric]} $1::text::{types[vector]}"
    values: list[Any] = [text_of(shape, query_D)]
    tests = []
    for one in where:
        kind = types[one.column]
        if kind in ("bytea", "jsonb"):
            what = f"search: pgvector cannot filter by {one.column!r}, which is stored as {kind}"
            raise SpecError("WHERE", "", what)
        values.append(one.value.replace("\0", "\ufffd") if kind == "text" else one.value)
        op = "<>" if one.op == "!=" else one.op
        cast = "double precision" if kind in ("real", "double precision") else kind
        collate = ' COLLATE "C"' if kind == "text" else ""  # by code points, as everywhere else
        tests.append(f"{quoted(one.column)}{collate} {op} ${len(values)}::{cast}")
        if one.not_nan:
            tests.append(f"{quoted(one.column)} <= 'Infinity'")
    score = SCORES[shape.metric].format(distance, f"{shape.column.dim}::float8")
    chosen = "".join(f", {quoted(column)}" for column in wanted)
    query = (
        f"SELECT {KEY}, ({score})::float8{chosen} FROM {name} "
        f"{'WHERE ' + ' AND '.join(tests) if tests else ''} ORDER BY {distance} LIMIT {int(k)}"
    )
    return query, values


def text_of(shape: Shape, query_D: np.ndarray) -> str:
    """A query as text that casts to the vector's type."""
    if shape.column.kind == "binary":
        return "".join("1" if value > 0 else "0" for value in query_D)
    return json.dumps(np.asarray(query_D, np.float32).tolist())


def vector_of(text: str) -> np.ndarray:
    """A stored vector from its text; bits as bytes."""
    if text.startswith("["):
        return np.array(json.loads(text), np.float32)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) == ord("1"))


def failure(table: str, error: Any) -> Exception:
    """What PostgreSQL said, as one of ours."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    do = "the same command resumes when that is mended"
    if "extension" in said and "vector" in said:
        do = "install pgvector on the server, or have its administrator CREATE EXTENSION vector"
    elif "depend on it" in said:
        do = "drop those views first, or choose another table"
    return StorageError("SINK", table, f"PostgreSQL: {said}", do)
