"""What pydantic complains about, in words for people.

A message is made from the type of the field, so that a new field needs nothing here; the spec's
reference page uses the same words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from embedmill.schemas.spec import Section, Spec
from embedmill.schemas.spec_file.tree import Node, Path, Problem, dotted

KINDS = {dict: "a mapping", list: "a list", NoneType: "nothing"}
NAMES = {str: "text", int: "a whole number", float: "a number"}
SWITCH = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def reworded(error: ValidationError, root: Node, known: set[str]) -> Iterator[Problem]:
    """Pydantic's complaints, one a field, in words; fields in `known` have had theirs."""
    complaints: dict[Path, list[Any]] = {}
    for item in error.errors(include_url=False, include_context=False):
        complaints.setdefault(_real_path(item), []).append(item)
    for path, items in complaints.items():
        inner = any(len(other) > len(path) and other[: len(path)] == path for other in complaints)
        own = [item for item in items if item["type"] == "value_error"]
        if dotted(path) in known or (inner and not own):
            continue  # of a union, only the branch that was meant speaks
        message = str(own[0]["msg"]).removeprefix("Value error, ") if own else ""
        if not path and (named := re.match(r"([a-z_]+(\.[a-z_]+)+): ", message)):
            path, message = tuple(named[1].split(".")), message[named.end() :]
        node, found = _node(root, path)
        yield Problem(node.where, dotted(path), message or _said(path, items, node, found))


def _real_path(item: Any) -> Path:
    """Where a complaint is, without the names that pydantic gives to the branches of a union."""
    path: Path = ()
    for key in item["loc"]:
        types = list(branches(annotation_at(path)))
        fields = [t for t in types if isinstance(t, type) and issubclass(t, Section)]
        known = isinstance(key, int) or any(key in section.model_fields for section in fields)
        unknown = item["type"] == "extra_forbidden" and key == item["loc"][-1]
        path = (*path, key) if known or unknown else path
    return path


def _node(root: Node, path: Path) -> tuple[Node, bool]:
    """The node at a path and True, or the nearest one around it and False."""
    node = root
    for key in path:
        inside = dict(node.children())
        if key not in inside:
            return node, False
        node = inside[key]
    return node, True


def _said(path: Path, items: list[Any], node: Node, found: bool) -> str:
    """What is wrong with a field, from its type and from what was written."""
    kinds = {item["type"] for item in items}
    if "extra_forbidden" in kinds:
        return _unknown(path)
    if not found:
        return f"missing; wants {wants(annotation_at(path))}"
    if "string_too_short" in kinds:
        return "is empty"
    if "string_too_long" in kinds:
        return "is longer than 4,096 characters"
    wanted, value = annotation_at(path), node.value
    said = f"wants {wants(wanted)}, got "
    if value is None or isinstance(value, dict | list):
        said += "an empty list" if value == [] else KINDS[type(value)]
        braces = isinstance(value, dict) and str in branches(wanted)
        return said + ('; quote it if it is text: "{…}"' if braces else "")
    written = node.written if node.written is not None else repr(value)
    said += written if len(written) <= 60 else f"{written[:57]}..."
    types = set(branches(wanted))
    if str in types and not isinstance(value, str):
        return f'{said}; quote it: "{written}"'
    if bool in types and written.lower() in SWITCH:
        return f"{said}; write {SWITCH[written.lower()]}"
    close = difflib.get_close_matches(str(value), _choices(wanted), 1)
    return f"{said}; did you mean {close[0]}?" if close else said


def _unknown(path: Path) -> str:
    """An unknown field, with the one that was probably meant."""
    sections = {"": Spec} | {
        name: field.annotation
        for name, field in Spec.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    around = [t for t in branches(annotation_at(path[:-1])) if hasattr(t, "model_fields")]
    names = list(around[0].model_fields) if around else []
    name = str(path[-1])
    if close := difflib.get_close_matches(name, names, 1):
        return f"unknown field; did you mean {close[0]}?"
    homes = [home for home, section in sections.items() if name in section.model_fields and home]
    if homes:
        return f"unknown field here; it belongs under {one_of(homes)}"
    return f"unknown field; known are {', '.join(names)}"


def annotation_at(path: Path) -> Any:
    """The type of the field at a path; None where there is no such field."""
    kind: Any = Spec
    for key in path:
        options = list(branches(kind))
        if isinstance(key, int):
            kind = next((get_args(t)[0] for t in options if get_origin(t) is list), None)
        else:
            fields = [t.model_fields[key] for t in options if key in getattr(t, "model_fields", ())]
            kind = Annotated[fields[0].annotation, *fields[0].metadata, None] if fields else None
    return kind


def branches(kind: Any) -> Iterator[Any]:
    """The types of a union, each without its annotations."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from branches(get_args(kind)[0])
    elif origin in (Union, UnionType):
        for inner in get_args(kind):
            yield from branches(inner)
    else:
        yield kind


def _choices(kind: Any) -> list[str]:
    return [c for t in branches(kind) if get_origin(t) is Literal for c in get_args(t)]


def one_of(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def wants(kind: Any) -> str:
    """A type in words: `auto or a whole number from 8 up`."""
    return one_of(list(_words(kind, [])))


def _words(kind: Any, limits: list[Any]) -> Iterator[str]:
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *more = get_args(kind)
        flat = [m for one in more for m in (one.metadata if isinstance(one, FieldInfo) else [one])]
        yield from _words(inner, [*limits, *flat])
    elif origin in (Union, UnionType):
        for inner in get_args(kind):
            yield from _words(inner, limits)
    elif origin is Literal:
        yield from get_args(kind)
    elif kind is bool:
        yield from ("true", "false")
    elif origin is list:
        empty = any(getattr(limit, "max_length", None) == 0 for limit in limits)
        least = " of one or more" if any(hasattr(limit, "min_length") for limit in limits) else ""
        yield "an empty list" if empty else f"a list{least} ({wants(get_args(kind)[0])})"
    elif origin is dict:
        key, value = get_args(kind)
        yield f"a mapping of {', '.join(_choices(key))} to {wants(value)}"
    elif isinstance(kind, type) and issubclass(kind, Section):
        yield f"a mapping of {', '.join(kind.model_fields)}"
    else:
        low, high, above = (
            next((getattr(limit, name) for limit in limits if hasattr(limit, name)), None)
            for name in ("ge", "le", "gt")
        )
        span = "" if above is None else f" above {above}"
        if low is not None:
            span = f" from {low} up" if high is None else f" from {low} to {high}"
        yield "null" if kind is NoneType else NAMES.get(kind, str(kind)) + span
