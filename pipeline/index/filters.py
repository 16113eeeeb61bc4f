"""Filters over kept columns: `COLUMN OP VALUE` as text, as an Arrow expression, and checked.

One form for every sink: all conditions must hold, and a null or NaN meets none. Values are never
put into a language of any sink as text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedmill.schemas.errors import SpecError

# The longer ones first: <= begins with <. Each compares expressions and arrays alike.
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": pc.less_equal, ">=": pc.greater_equal, "!=": pc.not_equal,
    "=": pc.equal, "<": pc.less, ">": pc.greater,
}  # fmt: skip
KINDS = "text, numbers, booleans, dates and times"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition over a column; `value` is of the column's own kind."""

    field: pa.Field
    op: str  # of OPERATORS
    value: Any  # str, int, float, bool, date or datetime

    @property
    def column(self) -> str:
        """The column's name."""
        return self.field.name

    @property
    def not_nan(self) -> bool:
        """Whether NaN has to be kept out: it meets no condition, and some order it behind all."""
        return pa.types.is_floating(self.field.type) and self.op in (">", ">=", "!=")


def conditions(where: Sequence[str], carried: Sequence[pa.Field]) -> list[Condition]:
    """The conditions in words; SpecError for an unknown column or a value of another kind."""
    return [_condition(text, carried) for text in where]


def expression(wanted: Sequence[Condition]) -> pc.Expression | None:
    """All conditions as one expression; None if there are none."""
    whole = None
    for one in wanted:
        test = OPERATORS[one.op](pc.field(one.column), pa.scalar(one.value, one.field.type))
        if one.not_nan:
            test &= pc.field(one.column) <= pa.scalar(math.inf, one.field.type)
        whole = test if whole is None else whole & test
    return whole


def meets(wanted: Sequence[Condition], batch: pa.RecordBatch) -> np.ndarray:
    """Which rows of a batch meet all conditions, bool (R,)."""
    keep_R = np.ones(len(batch), bool)
    for one in wanted:
        value = pa.scalar(one.value, one.field.type)
        test = OPERATORS[one.op](batch.column(one.column), value)
        keep_R &= np.asarray(pc.fill_null(test, False), bool)
        if one.not_nan:
            keep_R &= ~np.isnan(batch.column(one.column).to_numpy(zero_copy_only=False))
    return keep_R


def _condition(text: str, carried: Sequence[pa.Field]) -> Condition:
    # The longest name that fits: a column may be called "a" and another one "a=b".
    for field in sorted(carried, key=lambda field: -len(field.name)):
        rest = text.removeprefix(field.name)
        if len(rest) == len(text) and field.name:
            continue
        rest = rest.lstrip(" ")
        for op in OPERATORS:
            if rest.startswith(op):
                return Condition(field, op, _value(field, op, rest.removeprefix(op).lstrip(" ")))
    known = ", ".join(repr(field.name) for field in carried)
    raise SpecError(
        "WHERE", "", f"search: {text!r} is no COLUMN=VALUE (or !=, <, <=, >, >=); columns: {known}"
    )


def _value(field: pa.Field, op: str, text: str) -> Any:
    kind = field.type
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            text.encode()
            return text
        if pa.types.is_boolean(kind) and op in ("=", "!="):
            return {"true": True, "false": False}[text.lower()]
        if pa.types.is_integer(kind):
            return pa.scalar(int(text), kind).as_py()
        if pa.types.is_floating(kind) and kind != pa.float16():
            if math.isnan(float(text)):
                raise ValueError
            return pa.scalar(float(text), kind).as_py()
        if pa.types.is_date(kind):
            return date.fromisoformat(text)
        if pa.types.is_timestamp(kind):
            when = datetime.fromisoformat(text)
            if kind.tz is None:
                when = when.astimezone(UTC).replace(tzinfo=None) if when.tzinfo else when
            elif not when.tzinfo:
                when = when.replace(tzinfo=UTC)
            pa.scalar(when, kind)  # nanoseconds end in 2262
            return when
    except (ValueError, KeyError, OverflowError, pa.ArrowException):
        what = f"search: {text!r} is no value of column {field.name!r}, which is {kind}"
        raise SpecError("WHERE", "", what) from None
    what = f"search: column {field.name!r} is {kind}; filters {op} know {KINDS}"
    raise SpecError("WHERE", "", what)
