"""YAML text -> a tree that remembers where each value was written.

Plain scalars follow the core rules of YAML 1.2: `no`, `on` and `12:30:45` are the text that was
written, `1e3` is a number. Events are read one at a time, so depth and size are checked before
anything is built: no deep nesting, no alias bomb. Tags are refused, so no file makes objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import yaml

MAX_DEPTH = 50
MAX_NODES = 10_000
NULL = re.compile(r"null|Null|NULL|~|")
TRUE, FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.nan"
)
LONGEST_NUMBER = 40  # characters; longer digits are text, which no number field takes

# What the YAML scanner says -> what to do about it.
ADVICE = {
    "'\\t'": "a tab; YAML indents with spaces",
    "mapping values are not allowed": "a ': ' inside a value, or a wrong indent; quote the value",
    "could not find expected ':'": "this line is neither `key: value` nor a list item",
    "expected <block end>": "the indent does not match the lines above",
    "cannot start any token": "a value cannot begin with this character; quote it",
    "expected ',' or": "a [ or { is not closed, or a comma is missing; quote values that have one",
    "while scanning a quoted scalar": "a quote is not closed",
    "while scanning an alias": "a value cannot begin with *; quote it",
    "undefined alias": "an alias to no anchor; quote a value that begins with *",
    "unknown escape character": 'an unknown \\ escape; use single quotes, or write "\\\\"',
}

# What it says, in two ways, of a line as `text: {title} {body}`; and such a line.
GOES_ON = "but found '"
BRACED = re.compile(r"(?:^|: +|- +)[\[{].*[\]}]")

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Where:
    """A place: a line of the file, or the option that set the value."""

    source: str
    line: int = 0  # 0: not a line of a file

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass
class Problem(Exception):
    """What is wrong with one value. Raised where reading cannot go on, else collected."""

    where: Where
    field: str
    what: str

    def __str__(self) -> str:
        field = "" if str(self.where) == f"--set {self.field}" else self.field
        return ": ".join(part for part in (str(self.where), field, self.what) if part)


@dataclass(slots=True)
class Node:
    """A value, where it is, and how it was written if that was without quotes."""

    where: Where
    value: Any  # dict[str, Node] | list[Node] | str | int | float | bool | None
    written: str | None = None

    def children(self) -> list[tuple[str | int, Node]]:
        """The nodes inside, with their keys or positions."""
        if isinstance(self.value, dict):
            return list(self.value.items())
        return list(enumerate(self.value)) if isinstance(self.value, list) else []

    def plain(self) -> Any:
        """The value alone."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        return (
            [child.plain() for child in self.value] if isinstance(self.value, list) else self.value
        )

    def walk(self, path: Path = ()) -> Iterator[tuple[Path, Node]]:
        """Every node with its path, outer ones first."""
        yield path, self
        for key, child in self.children():
            yield from child.walk((*path, key))


def dotted(path: Path) -> str:
    """The name that people use for a path."""
    return ".".join(map(str, path))


def resolve(text: str) -> Any:
    """What an unquoted scalar means."""
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return text[0] in "tT"
    if len(text) <= LONGEST_NUMBER and INT.fullmatch(text):
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if len(text) <= LONGEST_NUMBER and FLOAT.fullmatch(text):
        return float(text if text[-1].isdigit() or text[-1] == "." else text.replace(".", ""))
    return text


def parse(text: str, where: Where, problems: list[Problem]) -> Node | None:
    """The tree of one YAML document; None if it is empty. Raises Problem where it cannot go on."""
    try:
        return _Parser(text, where, problems).document()
    except yaml.reader.ReaderError as error:
        line = where.line and text.count("\n", 0, error.position) + 1
        what = f"the character U+{error.character:04X} is not allowed in YAML"
        raise Problem(replace(where, line=line), "", what) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        what = next((advice for sign, advice in ADVICE.items() if sign in said), said)
        if mark and GOES_ON in said and BRACED.search(text.splitlines()[mark.line][: mark.column]):
            what = "a value that begins with { or [ has to be quoted"
        line = where.line and (mark.line + 1 if mark else 1)
        raise Problem(replace(where, line=line), "", f"not YAML: {what}") from None


class _Parser:
    """Builds nodes from YAML events; `path` is always where the node will be."""

    def __init__(self, text: str, where: Where, problems: list[Problem]) -> None:
        self.events = yaml.parse(text, Loader=yaml.SafeLoader)
        self.where, self.problems = where, problems
        self.anchors: dict[str, Node] = {}
        self.nodes = 0

    def document(self) -> Node | None:
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        root = self.node(next(self.events), ())
        next(self.events)
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self.stop(self.at(event), (), "a second document; a spec is one")
        empty = root.written == "" and root.value is None
        return None if empty else root

    def node(self, event: yaml.Event, path: Path) -> Node:
        where = self.at(event)
        self.count(where, path)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                self.stop(where, path, f"*{event.anchor} names no anchor above it")
            return self.copy(self.anchors[event.anchor], where, path)
        if event.tag not in (None, "!"):
            what = f"the tag {event.tag} is not allowed; quote the value to make it text"
            self.problems.append(Problem(where, dotted(path), what))
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None and event.tag is None
            value = resolve(event.value) if plain else event.value
            node = Node(where, value, event.value if plain else None)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Node(where, self.items(path))
        else:
            node = Node(where, self.pairs(path))
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def items(self, path: Path) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, (*path, len(items))))
        return items

    def pairs(self, path: Path) -> dict[str, Node]:
        pairs: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            where = self.at(event)
            if not isinstance(event, yaml.ScalarEvent):
                self.stop(
                    where, path, "a key must be a word; quote a value that begins with { or ["
                )
            key, inside = event.value, (*path, event.value)
            node = self.node(next(self.events), inside)
            if key in pairs:
                what = f"named twice; first on line {pairs[key].where.line}"
                self.problems.append(Problem(where, dotted(inside), what))
            else:
                node.where = where  # the line of the key is where one looks
                pairs[key] = node
        return pairs

    def copy(self, node: Node, where: Where, path: Path) -> Node:
        """What an alias stands for; a copy, so that --set changes one place only."""
        self.count(where, path)
        value = node.value
        if isinstance(value, dict):
            value = {key: self.copy(child, where, (*path, key)) for key, child in value.items()}
        elif isinstance(value, list):
            value = [self.copy(child, where, (*path, n)) for n, child in enumerate(value)]
        return Node(where, value, node.written)

    def count(self, where: Where, path: Path) -> None:
        self.nodes += 1
        if len(path) > MAX_DEPTH:
            self.stop(where, path[:3], f"nested more than {MAX_DEPTH} deep")
        if self.nodes > MAX_NODES:
            self.stop(where, path[:3], f"more than {MAX_NODES:,} values, aliases counted in full")

    def at(self, event: yaml.Event) -> Where:
        return replace(self.where, line=self.where.line and event.start_mark.line + 1)

    def stop(self, where: Where, path: Path, what: str) -> NoReturn:
        raise Problem(where, dotted(path), what)
