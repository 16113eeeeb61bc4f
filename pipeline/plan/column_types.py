"""Column types: one plain form for equal values, and one type for several shards."""

from __future__ import annotations

import pyarrow as pa

STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
UNITS = ("s", "ms", "us")  # ns reaches from 1677 to 2262 only: it is joined with none of these
TEXT_TYPES = {"arrow.json"}  # extension types whose storage is text
ID_TYPES = {"arrow.uuid"}  # and one whose values have one form as text


def extension_of(field: pa.Field) -> str:
    """The name of a field's own extension type; "" if it has none."""
    if isinstance(field.type, pa.BaseExtensionType):
        return field.type.extension_name
    return (field.metadata or {}).get(b"ARROW:extension:name", b"").decode(errors="replace")


def plain(kind: pa.DataType) -> pa.DataType:
    """The type as parts have it: a dictionary's values, strings of every kind, no views inside."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if any(test(kind) for test in STRINGS):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if has_view(kind):
        return _inside(kind)
    return kind


def has_view(kind: pa.DataType) -> bool:
    """True if a view is in the type: Arrow cannot take rows of such columns."""
    views = ("is_string_view", "is_binary_view", "is_list_view", "is_large_list_view")
    if any(getattr(pa.types, test)(kind) for test in views):
        return True
    return any(has_view(kind.field(n).type) for n in range(kind.num_fields))


def _inside(kind: pa.DataType) -> pa.DataType:
    if any(test(kind) for test in LISTS):
        return pa.list_(kind.value_field.with_type(plain(kind.value_type)))
    if pa.types.is_struct(kind):
        fields = [kind.field(n) for n in range(kind.num_fields)]
        return pa.struct([field.with_type(plain(field.type)) for field in fields])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    return kind


def joined(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The one type that holds the values of both without loss; None if there is none."""
    if a.equals(b) or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if any(test(a) for test in LISTS) and any(test(b) for test in LISTS):
        inner = joined(a.value_type, b.value_type)
        if inner is None:
            return None
        nullable = a.value_field.nullable or b.value_field.nullable
        return pa.list_(pa.field("element", inner, nullable=nullable))
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        return _structs(a, b)
    return _numbers(a, b) or _times(a, b)


def _structs(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    fields = []
    if [f.name for f in a] != [f.name for f in b]:
        return None
    for one, two in zip(a, b, strict=True):
        kind = joined(one.type, two.type)
        if kind is None:
            return None
        fields.append(pa.field(one.name, kind, nullable=one.nullable or two.nullable))
    return pa.struct(fields)


def _numbers(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        signs = [pa.types.is_signed_integer(kind) for kind in (a, b)]
        widths = [kind.bit_width * (1 if signed == any(signs) else 2)
                  for kind, signed in zip((a, b), signs, strict=True)]  # fmt: skip
        if max(widths) > 64:
            return None
        return getattr(pa, f"{'int' if any(signs) else 'uint'}{max(widths)}")()
    if pa.types.is_floating(a) and pa.types.is_floating(b):
        return max(a, b, key=lambda kind: kind.bit_width)
    if pa.types.is_decimal(a) and pa.types.is_decimal(b) and a.scale == b.scale:
        return max(a, b, key=lambda kind: kind.precision)
    return None


def _times(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    stamps = pa.types.is_timestamp(a) and pa.types.is_timestamp(b) and a.tz == b.tz
    if stamps and {a.unit, b.unit} <= {*UNITS}:
        return max(a, b, key=lambda kind: UNITS.index(kind.unit))
    if pa.types.is_time(a) and pa.types.is_time(b):
        return max(a, b, key=lambda kind: kind.bit_width)
    return None
