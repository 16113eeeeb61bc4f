"""What the spec's input columns are in the shards: templates, types, and what is refused.

Only top-level columns with exact storage types are read. An extension type is refused, because
some run code when they are opened; a text column that differs in case only is an error, because
readers that fill it with nulls would embed nothing and say nothing.
"""

from __future__ import annotations

import difflib
import string

import pyarrow as pa

from embedmill.pipeline.plan.column_types import ID_TYPES, TEXT_TYPES, extension_of, joined, plain
from embedmill.pipeline.plan.shards import Found
from embedmill.schemas.errors import InputError, SpecError
from embedmill.schemas.spec import Input

STRING = pa.string()


def template_parts(template: str) -> list[tuple[str, str | None]]:
    """(literal before, column) pieces of a template; a name without braces is that column."""
    if "{" not in template and "}" not in template:
        return [("", template)]
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SpecError("TEMPLATE", "", f"input: {template!r}: {error}") from None
    for _, name, form, conversion in parsed:
        if name == "" or form or conversion:
            raise SpecError(
                "TEMPLATE", "", f"input: {template!r}: use {{column}} only; {{{{ is a brace"
            )
    if not any(name for _, name, _, _ in parsed):
        raise SpecError("TEMPLATE", "", f"input: {template!r} names no column")
    return [(literal, name) for literal, name, _, _ in parsed]


def text_columns(spec: Input) -> list[str]:
    """Names of the columns that texts A and B are made of, each once."""
    templates = [spec.text, *([spec.pair] if spec.pair else [])]
    names = [name for t in templates for _, name in template_parts(t) if name]
    return list(dict.fromkeys(names))


def carried_schema(spec: Input, found: list[Found]) -> pa.Schema:
    """The id and the kept columns as the parts will have them, equal for all shards.

    Raises InputError for a missing or doubled column, a type that cannot be carried, or two
    shards that differ.
    """
    first: pa.Schema | None = None
    for name in text_columns(spec):
        if all(pa.types.is_null(_field(item, name).type) for item in found):
            what = f"column {name!r} is null here and in every other shard, not text"
            raise InputError("COLUMN_TYPE", found[0].shard.uri, what, "name a string column")
    for item in found:
        schema = _check(spec, item)
        first = schema if first is None else _join(first, schema, item, found[0])
    assert first is not None, "there is at least one shard. This is a bug."
    return first


def _join(first: pa.Schema, schema: pa.Schema, item: Found, other: Found) -> pa.Schema:
    """Both schemas in types that hold the values of both; InputError where there is none."""
    fields = []
    for a, b in zip(first, schema, strict=True):
        kind = joined(a.type, b.type)
        if kind is None:
            raise InputError(
                "SCHEMA_MISMATCH",
                item.shard.uri,
                f"column {a.name!r} is {shown(b.type)} here, and {shown(a.type)} in "
                f"{other.shard.uri}",
                "make the shards alike, or drop the column from the spec",
            )
        fields.append(a.with_type(kind))
    return pa.schema(fields)


def _check(spec: Input, item: Found) -> pa.Schema:
    uri = item.shard.uri
    for name in text_columns(spec):
        field = _field(item, name)
        if extension_of(field) not in TEXT_TYPES and plain(field.type) not in (STRING, pa.null()):
            raise InputError(
                "COLUMN_TYPE",
                uri,
                f"column {name!r} is {shown(field.type)}, not text",
                "name a string column",
            )
    fields = [pa.field("id", pa.string(), nullable=False)]
    if spec.id:
        kind = _id_type(_field(item, spec.id))
        if kind not in (STRING, pa.int64(), pa.null()):
            raise InputError(
                "COLUMN_TYPE",
                uri,
                f"id column {spec.id!r} is {shown(kind)}",
                "an id is a string or an integer",
            )
        fields = [pa.field(spec.id, kind, nullable=False)]
    for name in spec.keep:
        if name != spec.id:
            fields.append(pa.field(name, _carriable(item, name)))
    return pa.schema(fields)


def _field(item: Found, name: str) -> pa.Field:
    indices = item.schema.get_all_field_indices(name)
    if len(indices) > 1:
        raise InputError(
            "COLUMN_TWICE", item.shard.uri, f"has {len(indices)} columns named {name!r}"
        )
    if indices:
        return item.schema.field(indices[0])
    names = item.schema.names
    near = [n for n in names if n.lower() == name.lower()] or difflib.get_close_matches(
        name, names, 1
    )
    more = f", … and {len(names) - 12} more" if len(names) > 12 else ""
    hint = f"it has {', '.join(map(repr, names[:12]))}{more}"
    if f"/{name}=" in item.shard.uri:
        hint = "it is in the name of a folder alone, and only a file's columns are read"
    elif near:
        hint = f"did you mean {near[0]!r}?"
    raise InputError("COLUMN_MISSING", item.shard.uri, f"has no column {name!r}", hint)


def _id_type(field: pa.Field) -> pa.DataType:
    """The type that an id is stored in: int64 for integers, else string."""
    kind = plain(field.type)
    if extension_of(field) in TEXT_TYPES | ID_TYPES:
        return STRING
    if pa.types.is_decimal(kind) and kind.scale == 0:
        return STRING
    return pa.int64() if pa.types.is_integer(kind) else kind


def shown(kind: pa.DataType) -> str:
    """A type in a few words: of a nested one its kind is enough."""
    text = str(kind)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _carriable(item: Found, name: str) -> pa.DataType:
    field = _field(item, name)
    if extension_of(field) in TEXT_TYPES | ID_TYPES:
        return STRING
    if _has_extension(field):
        raise InputError(
            "COLUMN_TYPE",
            item.shard.uri,
            f"kept column {name!r} has an extension type",
            "keep its storage instead",
        )
    return plain(field.type)


def _has_extension(field: pa.Field) -> bool:
    """Whether the field's type, or one inside it, is an extension type, registered or not."""
    kind = field.type
    return (
        b"ARROW:extension:name" in (field.metadata or {})
        or isinstance(kind, pa.BaseExtensionType)
        or any(_has_extension(kind.field(i)) for i in range(kind.num_fields))
    )
