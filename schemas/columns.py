"""Arrow schemas of what is written, and the codes of rows that get no vector."""

from __future__ import annotations

import base64
from collections.abc import Callable
from enum import IntEnum

import pyarrow as pa

from embedmill.schemas.plan import Plan, VectorColumn


class Status(IntEnum):
    """Why a row has no vector; 0 = it has one. The names are the codes in rejects."""

    OK = 0
    NULL_TEXT = 1
    EMPTY_TEXT = 2
    BAD_UTF8 = 3
    NULL_ID = 4
    TEXT_TOO_LONG = 5
    NON_FINITE = 6
    UNREADABLE = 7
    CRASHED = 8


REASONS = {
    Status.NULL_TEXT: "text A is null",
    Status.EMPTY_TEXT: "text A is empty or only white space",
    Status.BAD_UTF8: "the text, the id or a kept column is not UTF-8",
    Status.NULL_ID: "the id column is null",
    Status.TEXT_TOO_LONG: "over max_tokens with long_text: reject; or too long to be tokenized",
    Status.NON_FINITE: "the model gave a vector that is not finite, or zero",
    Status.UNREADABLE: "its row group is damaged, and on_bad_file is quarantine",
    Status.CRASHED: "the process that tokenizes or encodes it dies of it",
}
# What counts against output.quality.fault_rate. The others are named by a policy of the spec; a
# text that is too long is one unless long_text: reject asks for it.
FAULTS = tuple(Status[name] for name in "BAD_UTF8 NULL_ID NON_FINITE UNREADABLE CRASHED".split())

DTYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}
# kind of column -> its Arrow type: plain types only, which every reader of Parquet knows.
KINDS: dict[str, Callable[[VectorColumn], pa.DataType]] = {
    "float": lambda c: pa.list_(DTYPES[c.dtype], c.dim),
    "int8": lambda c: pa.list_(DTYPES[c.dtype], c.dim),
    "binary": lambda c: pa.binary(c.dim // 8),
    "tokens": lambda c: pa.list_(pa.list_(DTYPES[c.dtype], c.dim)),
    "scores": lambda c: pa.float32() if c.dim == 1 else pa.list_(pa.float32(), c.dim),
    "sparse": lambda c: pa.list_(pa.struct({"index": pa.int32(), "value": pa.float32()})),
}

SLICE = pa.struct(
    [
        ("uri", pa.string()),
        ("name", pa.string()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("footer", pa.string()),
        ("shard_rows", pa.int64()),
        ("start", pa.int64()),
        ("rows", pa.int64()),
    ]
)
UNITS = pa.schema([("unit_key", pa.string()), ("slices", pa.list_(SLICE))])
RANGES = pa.schema([("min", pa.float32()), ("max", pa.float32())])  # one row a dimension
WINDOW_FIELDS = [
    pa.field("window", pa.int32(), nullable=False),  # of the row's windows, from 0
    pa.field("char_start", pa.int64(), nullable=False),  # code points of text A as rendered
    pa.field("char_end", pa.int64(), nullable=False),
]
REJECTS = pa.schema(
    [
        ("id", pa.string()),  # as text, where the row has one
        ("shard", pa.string()),
        ("row", pa.int64()),  # in the shard, from 0
        ("code", pa.string()),
    ]
)


def vector_type(column: VectorColumn) -> pa.DataType:
    """The Arrow type of an output column; docs/outputs.md describes each."""
    return KINDS[column.kind](column)


def part_schema(plan: Plan) -> pa.Schema:
    """Columns of a part: id, vectors, n_tokens, n_chars_cut, input_hash, kept columns.

    Where a row may have several windows, these say which one it is, and where in text A.
    """
    carried = decode_schema(plan.carried_schema)
    windows = WINDOW_FIELDS if plan.identity["long_text"] == "window" else []
    return pa.schema(
        [
            carried.field(0),
            *(pa.field(c.name, vector_type(c), nullable=False) for c in plan.columns),
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("n_chars_cut", pa.int64(), nullable=False),
            *windows,
            pa.field("input_hash", pa.binary(16), nullable=False),
            *list(carried)[1:],
        ]
    )


def encode_schema(schema: pa.Schema) -> str:
    """An Arrow schema as base64 text."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def decode_schema(text: str) -> pa.Schema:
    """The inverse of encode_schema."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
