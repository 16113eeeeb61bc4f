"""Reads one unit: projected columns, checked pages, and a status for every row that cannot go on.

Comes in: a unit. Goes out: a TextBatch in input order. A null, an empty text or bytes that are no
UTF-8 are a row's status, never a surprise: texts are handled as bytes until each row is known to
be text, because one bad row would fail the conversion of its whole column.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from operator import not_

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedmill.pipeline.batches import TextBatch
from embedmill.pipeline.plan.columns import template_parts, text_columns
from embedmill.pipeline.read.slices import Stretch, read_slices
from embedmill.schemas.columns import Status, decode_schema
from embedmill.schemas.errors import InputError
from embedmill.schemas.plan import Plan, Unit
from embedmill.schemas.spec import Input


def read_unit(plan: Plan, unit: Unit, crashed: Sequence[int] = ()) -> TextBatch:
    """The rows of a unit; InputError if a shard changed since it was planned, or cannot be read.

    `crashed`: rows that go no further than this.
    """
    spec = Input.model_validate(plan.input)
    carried = decode_schema(plan.carried_schema)
    types = {name: pa.large_binary() for name in text_columns(spec)}
    for field in carried:
        if spec.id or field.name != "id":
            string = field.type == pa.string()
            types.setdefault(field.name, pa.large_binary() if string else field.type)
    stretches = read_slices(unit, list(types), spec.on_bad_file == "quarantine")
    table = pa.concat_tables(_alike(stretch, types) for stretch in stretches)
    lost = [Status.UNREADABLE if s.rows is None else Status.OK for s in stretches]
    status_R = np.repeat(np.array(lost, np.uint8), [s.count for s in stretches])
    a, null_a = _text(table, spec.text, status_R)
    b = None
    if spec.pair:
        b, null_b = _text(table, spec.pair, status_R)
        b = ["" if null else text for null, text in zip(null_b, b, strict=True)]
    rows = _carried(plan, spec, table, stretches, status_R)
    _judge_a(spec, unit, a, null_a, status_R)
    rows_C = np.array(crashed, np.int64)
    status_R[rows_C[status_R[rows_C] == Status.OK]] = Status.CRASHED
    return TextBatch(unit, rows, a, b, status_R)


def locate(unit: Unit, row: int) -> tuple[str, int]:
    """(shard URI, row in the shard) of a row of the unit."""
    for piece in unit.slices:
        if row < piece.rows:
            return piece.shard.uri, piece.start + row
        row -= piece.rows
    raise IndexError(row)


def _alike(stretch: Stretch, types: dict[str, pa.DataType]) -> pa.Table:
    """The stretch in types that are the same in every shard; nulls where it cannot be read.

    Strings of every kind become large_binary, so that a bad row is a row's problem.
    """
    if stretch.rows is None:
        return pa.table({name: pa.nulls(stretch.count, kind) for name, kind in types.items()})
    columns = {}
    for name, kind in types.items():
        column = _storage(stretch.rows.column(name), kind)
        columns[name] = _cast(column, kind, name, stretch).combine_chunks()
    return pa.table(columns)


def _storage(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column as plain values: no dictionary, no extension, what has a form as text as text."""
    if pa.types.is_dictionary(column.type):
        values = [chunk.dictionary_decode() for chunk in column.chunks]
        column = pa.chunked_array(values, column.type.value_type)
    if isinstance(column.type, pa.BaseExtensionType):
        name, storage = column.type.extension_name, column.type.storage_type
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], storage)
        if name == "arrow.uuid":
            texts = [None if v is None else str(uuid.UUID(bytes=v)) for v in column.to_pylist()]
            column = pa.chunked_array([pa.array(texts, pa.string())])
    if pa.types.is_decimal(column.type) and kind == pa.large_binary():
        texts = [None if v is None else f"{v:f}" for v in column.to_pylist()]
        column = pa.chunked_array([pa.array(texts, pa.string())])
    return pc.cast(column, pa.binary_view()) if pa.types.is_string_view(column.type) else column


def _cast(
    column: pa.ChunkedArray, kind: pa.DataType, name: str, stretch: Stretch
) -> pa.ChunkedArray:
    try:
        return pc.cast(column, kind)
    except pa.ArrowInvalid:
        if kind != pa.int64():
            raise
        raise InputError(
            "ID_RANGE", stretch.shard.uri, f"id column {name!r} holds an integer above {2**63 - 1}",
            "keep such ids as strings",
        ) from None  # fmt: skip


def _text(table: pa.Table, template: str, status_R: np.ndarray) -> tuple[list[str], np.ndarray]:
    """A rendered template as R strings, and where all its columns are null; marks bad UTF-8.

    A null column among others renders as nothing.
    """
    pieces: list[pa.Scalar | pa.ChunkedArray] = []
    null_R = np.ones(len(table), bool)
    for literal, name in template_parts(template):
        if literal:
            pieces.append(pa.scalar(literal.encode(), pa.large_binary()))
        if name:
            pieces.append(table.column(name))
            null_R &= table.column(name).is_null().to_numpy()
    separator = pa.scalar(b"", pa.large_binary())
    joined = pc.binary_join_element_wise(
        *pieces, separator, null_handling="replace", null_replacement=b""
    )
    return _strings(joined, status_R).fill_null("").to_pylist(), null_R


def _strings(column: pa.ChunkedArray, status_R: np.ndarray) -> pa.ChunkedArray:
    """Bytes as large_string; a row that is not UTF-8 becomes null and is marked."""
    try:
        return pc.cast(column, pa.large_string())
    except pa.ArrowInvalid:
        texts = []
        for row, value in enumerate(column.to_pylist()):
            try:
                texts.append(value.decode() if value is not None else None)
            except UnicodeDecodeError:
                texts.append(None)
                status_R[row] = Status.BAD_UTF8
        return pa.chunked_array([pa.array(texts, pa.large_string())])


def _nested(column: pa.ChunkedArray, status_R: np.ndarray) -> pa.ChunkedArray:
    """A column as it is; a row with bytes inside that are not UTF-8 becomes null and is marked."""
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        rows: list[int | None] = list(range(len(column)))
        for row in range(len(column)):
            try:
                column.take([row]).validate(full=True)  # of a slice all of the chunk is validated
            except pa.ArrowInvalid:
                rows[row], status_R[row] = None, Status.BAD_UTF8
        return column.take(pa.array(rows, pa.int64()))


def _carried(
    plan: Plan, spec: Input, table: pa.Table, stretches: list[Stretch], status_R: np.ndarray
) -> pa.Table:
    """The id and the kept columns in the types of the parts."""
    schema = decode_schema(plan.carried_schema)
    columns = []
    for field in schema:
        if field.name == "id" and not spec.id:
            column = pa.chunked_array([_default_ids(stretch) for stretch in stretches])
        else:
            column = table.column(field.name)
            is_text = field.type == pa.string()
            column = (_strings if is_text else _nested)(column, status_R).cast(field.type)
        columns.append(column)
    status_R[columns[0].is_null().to_numpy() & (status_R == 0)] = Status.NULL_ID
    return pa.Table.from_arrays(columns, names=schema.names)


def _default_ids(stretch: Stretch) -> pa.Array:
    numbers = pa.array(np.arange(stretch.first, stretch.first + stretch.count)).cast(pa.string())
    return pc.binary_join_element_wise(stretch.shard.name, numbers, "#")


def _judge_a(
    spec: Input, unit: Unit, a: list[str], null_R: np.ndarray, status_R: np.ndarray
) -> None:
    ok_R = status_R == Status.OK
    empty_R, space_R = (np.fromiter(map(is_so, a), bool, len(a)) for is_so in (not_, str.isspace))
    blank_R = (empty_R | space_R) & ~null_R
    for bad_R, policy, status in (
        (null_R & ok_R, spec.on_null, Status.NULL_TEXT),
        (blank_R & ok_R, spec.on_empty, Status.EMPTY_TEXT),
    ):
        if policy == "encode":
            continue
        if policy == "fail" and bad_R.any():
            uri, row = locate(unit, int(bad_R.argmax()))
            raise InputError(
                status.name,
                f"{uri}, row {row}, {spec.text}",
                "has no text",
                "mend it, or set the policy to reject",
            )
        status_R[bad_R] = status
