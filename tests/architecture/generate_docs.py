"""Writes the reference pages from the code: `make docs`. A test compares them with the files.

A new page is one function here and one line in PAGES.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import yaml  # noqa: E402
from pydantic_core import PydanticUndefined  # noqa: E402

from embedmill.jobs.cli import cli  # noqa: E402
from embedmill.schemas import errors  # noqa: E402
from embedmill.schemas.columns import FAULTS, REASONS, Status  # noqa: E402
from embedmill.schemas.quality import Gate  # noqa: E402
from embedmill.schemas.spec import Section, Spec  # noqa: E402
from embedmill.schemas.spec_file.messages import branches, wants  # noqa: E402

NOTE = "<!-- Written by `make docs` from the code; change the code. -->"


def spec_page() -> str:
    """Every field of the spec: what it wants, its default, and why."""
    head = (
        f"# The spec\n\n{NOTE}\n\n{_first(Spec)} `input`, `model` and `output` say what is made; "
        "`run` says how, and a change there resumes instead of starting over. `${VAR}` and "
        "`${VAR:-default}` come from the environment; `$${` is a plain `${`. A secret is refused. "
        "A relative path is seen from the folder that the command is given in.\n"
    )
    return head + "".join(_section(Spec, ""))


def _section(section: type[Section], path: str, own: Section | None = None) -> Iterator[str]:
    """The table of one section, then those of the sections inside; `own`: its value by default."""
    inner: list[tuple[type[Section], str, Section | None]] = []
    rows: list[str] = []
    for name, field in section.model_fields.items():
        full = f"{path}.{name}" if path else name
        kind = Annotated[field.annotation, *field.metadata, None]
        sections = [s for s in _inside(field.annotation) if issubclass(s, Section)]
        for s in sections:
            where = full if s in branches(kind) else f"{full}.N"
            inner.append((s, where, field.default if isinstance(field.default, s) else None))
        if path or not sections:
            value = getattr(own, name) if own else field.default
            cells = (f"`{full}`", wants(kind), _default(value), field.description or "")
            rows.append(_row(cells))
    title = path or "the rest"
    table = f"\n## {title}\n\n{_first(section)}\n\n"
    table += _row(["field", "wants", "default", ""]) + _row(["---"] * 4)
    if path:
        yield from (table, *rows)
    for one, where, value in inner:
        yield from _section(one, where, value)
    if rows and not path:
        yield from (table, *rows)


def _row(cells: Iterable[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(c.replace('|', chr(92) + '|').replace('<', '&lt;') for c in cells)} |\n"


def _inside(kind: Any) -> Iterator[type]:
    """The classes in a type, also those of list items."""
    for branch in branches(kind):
        if isinstance(branch, type):
            yield branch
        else:
            for item in getattr(branch, "__args__", ()):
                yield from (b for b in branches(item) if isinstance(b, type))


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Gate):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, Section) or (isinstance(value, list) and value):
        return "see below"
    return (
        f"`{yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"
    )


def errors_page() -> str:
    """The exit codes, and what each means."""
    rows = ["| 0 | done | A manifest of this plan exists. |\n"]
    kinds = [errors.EmbedmillError, *errors.EmbedmillError.__subclasses__()]
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        code = "130, 143" if kind is errors.Interrupted else str(kind.exit_code)
        said = "A bug of ours." if kind is errors.EmbedmillError else _first(kind)
        rows.append(f"| {code} | {kind.__name__} | {said} |\n")
    return (
        f"# Exit codes and errors\n\n{NOTE}\n\n"
        "An error is one line on stderr: `CODE: where: what; what to do`. A spec's problems are "
        "one line each: `file:line: field: message`.\n\n"
        "| exit code | error | meaning |\n| --- | --- | --- |\n" + "".join(rows) + _rejects()
    )


def _rejects() -> str:
    """Why a row may have no vector."""
    faults = (*FAULTS, Status.TEXT_TOO_LONG)
    rows = [(s.name, REASONS[s], "yes" if s in faults else "") for s in Status if s]
    return (
        "\n## Rejects\n\nA row without a vector is in `_embed/rejects` with its id, shard, row and "
        "code. Faults count against `output.quality.fault_rate`; `TEXT_TOO_LONG` does not where "
        "`long_text: reject` asks for it.\n\n" + _row(["code", "why", "fault"]) + _row(["---"] * 3)
    ) + "".join(map(_row, rows))


def cli_page() -> str:
    """Every command with its arguments and options."""
    head = (
        f"# The commands\n\n{NOTE}\n\n`embedmill` is `python -m embedmill`. Data goes to "
        "stdout, words to stderr; progress is a bar on a terminal and a line now and then "
        "elsewhere. Knobs are fields of the spec ([spec.md](spec.md)), not options. Exit codes: "
        "[errors.md](errors.md).\n"
    )
    pages = (_command(name, command) for name, command in sorted(cli.commands.items()))
    return head + "".join(line for page in pages for line in page)


def _command(name: str, command: click.Command) -> Iterator[str]:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join(p.make_metavar(click.Context(command)) for p in arguments)
    yield f"\n## {name}\n\n`embedmill {name} {usage}`\n\n{command.help}\n\n"
    yield from (_row(["option", ""]), _row(["---"] * 2))
    for option in command.params:
        if isinstance(option, click.Option):
            words, said = option.get_help_record(click.Context(command)) or ("", "")
            yield _row([f"`{words}`", said])


def _first(thing: type) -> str:
    """The docstring's first paragraph, as one line."""
    return " ".join((thing.__doc__ or "").split("\n\n")[0].split())


PAGES: dict[str, Callable[[], str]] = {
    "docs/spec.md": spec_page,
    "docs/errors.md": errors_page,
    "docs/cli.md": cli_page,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), encoding="utf-8")
        print(name)
