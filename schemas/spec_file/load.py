"""YAML -> Spec; every problem at once, as `file:line: field: message`. And Spec -> YAML.

The order: read the file, apply each --set, put in the environment, refuse secrets, then let
pydantic judge.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from embedmill.schemas.errors import SpecError
from embedmill.schemas.spec import Spec
from embedmill.schemas.spec_file.messages import one_of, reworded
from embedmill.schemas.spec_file.tree import Node, Path, Problem, Where, dotted, parse, resolve

MAX_BYTES = 1 << 20
STORES = ("file", "s3", "gs", "az", "abfs", "abfss")
SCHEMES = {  # fields that name a place, and the schemes that each may have
    ("input", "path"): (*STORES, "hf"),
    ("output", "path"): STORES,
    ("model", "name"): (*STORES, "pkg"),
    ("index", "path"): ("file", "s3", "gs", "az"),
}
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}|\$\{")
SECRET_KEY = re.compile(
    r"passw|secret|credential|(^|(auth|access|session|api|hf|bearer)[_-])token$"
    r"|api_?-?key|access_?-?key|private_?-?key",
    re.I,
)
SECRET_VALUE = re.compile(
    r"://[^/@\s]*:[^/@\s]*@"  # user:password@
    r"|(?<![A-Z0-9])(AKIA|ASIA)[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|[?&](sig|X-Amz-Signature)="
    r"|(?<!\w)(hf_[A-Za-z0-9]{30}|gh[pousr]_[A-Za-z0-9]{30}|github_pat_|sk-[A-Za-z0-9_-]{30})"
)
SMALLEST = "the smallest spec names input.path, input.text, model.name and output.path"


def load_spec(path: str, sets: Sequence[str] = ()) -> Spec:
    """The spec in a file, changed by `a.b=value` strings. Raises SpecError with every problem."""
    problems: list[Problem] = []
    try:
        root = parse(_read(path), Where(path, 1), problems)
        if root is None:
            raise Problem(Where(path), "", f"is empty; {SMALLEST}")
        if not isinstance(root.value, dict):
            raise Problem(Where(path, 1), "", f"is not a mapping of fields; {SMALLEST}")
    except Problem as problem:
        raise _error(path, [*problems, problem]) from None
    for item in sets:
        try:
            _set(root, item, problems)
        except Problem as problem:
            problems.append(problem)
    for place, node in root.walk():
        if len(place) == 1 and node.value is None:
            node.value = {}  # a section whose lines are all comments has its defaults
        problems += _text_problems(place, node)
    try:
        spec = Spec.model_validate(root.plain())
    except ValidationError as error:
        problems += reworded(error, root, {problem.field for problem in problems})
    if problems:
        raise _error(path, problems)
    return spec


def dump_spec(spec: Spec) -> str:
    """The whole spec as YAML, defaults included, that load_spec reads back as it is."""
    return yaml.dump(spec.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 would not read as text, and what looks like a variable."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if isinstance(resolve(text), str) else "'"
    if not text.isprintable():
        style = '"'  # the only style that keeps every kind of line break
    text = text.replace("${", "$${")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _error(path: str, problems: list[Problem]) -> SpecError:
    """One error; the file's problems by line, then those of --set."""
    ordered = sorted(problems, key=lambda one: (one.where.source != path, one.where.line))
    return SpecError("SPEC", path, "\n".join(dict.fromkeys(map(str, ordered))))


def _read(path: str) -> str:
    """The file's text, without a byte order mark."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise Problem(Where(path), "", "is a folder; name a YAML file") from None
    except FileNotFoundError:
        raise Problem(Where(path), "", "there is no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Problem(Where(path), "", f"cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise Problem(Where(path), "", "is larger than 1 MiB; is it a spec?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Problem(Where(path, line), "", "is not UTF-8; save it as UTF-8") from None


def _set(root: Node, item: str, problems: list[Problem]) -> None:
    """Puts the value of one --set into the tree, making what is missing on the way."""
    field, equals, text = item.partition("=")
    field = field.strip()
    where = Where(f"--set {field}")
    if not equals or not all(keys := field.split(".")):
        raise Problem(Where(f"--set {item}"), "", "write it as a.b=value")
    # Only brackets and quotes begin YAML; anything else is one plain value, colons and all.
    new = Node(where, resolve(text), text)
    if text[:1] in ("[", "{", '"', "'"):
        new = parse(text, where, problems) or new
    node, path = root, ()
    for n, key in enumerate(keys):
        if node.value is None:
            node.value = [] if key == "0" else {}
            node.where, node.written = where, None
        last, path = n == len(keys) - 1, tuple(keys[:n])
        if isinstance(node.value, list):
            if not key.isdecimal() or int(key) > len(node.value):
                raise Problem(where, field, f"{dotted(path)} has {len(node.value)} items, from 0")
            place: Any = int(key)
            if place == len(node.value):
                node.value.append(Node(where, None))
        elif isinstance(node.value, dict):
            place = key
            node.value.setdefault(key, Node(where, None))
        else:
            raise Problem(where, field, f"{dotted(path)} is one value and has no {key!r} inside")
        if last:
            node.value[place] = new
        node = node.value[place]


def _text_problems(path: Path, node: Node) -> Iterator[Problem]:
    """Puts the environment into one value, and judges what only its text tells."""
    field = dotted(path)
    if path and isinstance(path[-1], str) and SECRET_KEY.search(path[-1]):
        what = "a secret does not belong in a spec; put it into the environment of the job"
        yield Problem(node.where, field, what)
    if not isinstance(node.value, str):
        return
    text, missing = _expand(node.value)
    for name in missing:
        what = f"the variable {name} is not set; set it, or write ${{{name}:-default}}"
        yield Problem(node.where, field, what if name else "write $${ for a plain ${")
    if SECRET_VALUE.search(text) or SECRET_VALUE.search(node.value):
        what = "this holds a secret; put it into the environment of the job, never into a spec"
        yield Problem(node.where, field, what)
        return
    if "\0" in text:
        yield Problem(node.where, field, "holds a NUL character")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        yield Problem(node.where, field, "holds half a surrogate pair, which is no character")
    allowed = SCHEMES.get(tuple(key for key in path if isinstance(key, str))[:2])
    if allowed and not missing:
        scheme = SCHEME.match(text)
        if "::" in text:
            yield Problem(node.where, field, "'::' chains are not supported; name one place")
        elif scheme and scheme[1].lower() not in allowed:
            what = f"{scheme[1]}:// is not supported; use a path or {one_of(allowed)}://"
            yield Problem(node.where, field, what)
    changed = text != node.value
    node.value = resolve(text) if changed and node.written is not None else text


def _expand(text: str) -> tuple[str, list[str]]:
    """The text with its variables filled in, and the names of those that have no value."""
    missing: list[str] = []

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, default = match["name"], match["default"]
        found = os.environ.get(name) if name else None
        if default is not None:
            return found or default  # as in a shell: an empty variable takes the default
        if found is None:
            missing.append(name or "")
        return found or ""

    return VARIABLE.sub(value, text), missing
