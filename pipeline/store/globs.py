"""Lists the files of a folder, or the objects of a bucket, that a glob names: by the same rules.

Nothing that lies there is passed over in silence: what is not read is counted with its reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from embedmill.pipeline.store.client import split
from embedmill.pipeline.store.objects import list_objects, stat

MAGIC = re.compile(r"[*?[]")
SUFFIXES = (".parquet", ".parq", ".pq")  # of Parquet files, in any case
PARQUET = "\0parquet"  # in place of a pattern: a name with one of these suffixes
ANY_PARQUET = ("**", PARQUET)  # of a folder
NAMED = 100  # entries that are named; all are counted


@dataclass(slots=True)
class LeftOut:
    """Entries under an input that are not read, with their reasons."""

    # hidden | linked | suffix | no file -> how many
    counts: Counter[str] = field(default_factory=Counter)
    named: list[tuple[str, str]] = field(default_factory=list)  # (where, reason), the first NAMED
    closed: list[OSError] = field(default_factory=list)  # folders that cannot be listed

    def add(self, where: str, reason: str) -> None:
        """Counts one entry; a folder ends with a slash, and counts as one."""
        self.counts[reason] += 1
        if len(self.named) < NAMED:
            self.named.append((where, reason))


def first_magic(parts: Sequence[str]) -> int:
    """How many parts of a path come before the first that is a pattern."""
    return next((n for n, part in enumerate(parts) if MAGIC.search(part)), len(parts))


def expand_files(root: Path, pattern: Sequence[str], left_out: LeftOut) -> Iterator[str]:
    """Names below the root, with slashes, of the files that fit; links to files are files.

    A link to a folder is followed, unless what it leads to is read already: real folders first.
    """
    seen: set[tuple[int, int]] = set()
    linked = [root]
    for start in linked:
        for folder, folders, files in os.walk(start, onerror=left_out.closed.append):
            parts = Path(folder).relative_to(root).parts
            if _place(folder) in seen:
                if start == Path(folder):
                    left_out.add(f"{folder}/", "linked")
                folders.clear()
                continue
            here = Path(folder)
            folders[:] = _enter(here, parts, sorted(folders), pattern, left_out)
            linked += [here / name for name in folders if (here / name).is_symlink()]
            folders[:] = [name for name in folders if not (here / name).is_symlink()]
            found = list(_files(here, parts, sorted(files), pattern, left_out))
            if found or "**" in pattern[: len(parts) + 1]:
                seen.add(_place(folder))
            yield from found


def _enter(
    folder: Path, parts: tuple[str, ...], names: list[str], pattern: Sequence[str], left: LeftOut
) -> list[str]:
    """The folders that may hold files that fit; hidden ones are counted."""
    entered = []
    for name in names:
        if may_hold([*parts, name], pattern):
            entered.append(name)
        elif hidden(name, folder=True) and may_hold([*parts, "x"], pattern):
            left.add(f"{folder / name}/", "hidden")
    return entered


def _files(
    folder: Path, parts: tuple[str, ...], names: list[str], pattern: Sequence[str], left: LeftOut
) -> Iterator[str]:
    for name in names:
        path = folder / name
        if not fits([*parts, name], pattern):
            if reason := why_not([*parts, name], pattern):
                left.add(str(path), reason)
        elif _is_file(path):
            yield "/".join([*parts, name])
        else:
            left.add(str(path), "linked" if path.is_symlink() else "no file")


def _place(folder: str) -> tuple[int, int]:
    entry = os.stat(folder)
    return entry.st_dev, entry.st_ino


def _is_file(path: Path) -> bool:
    """Whether it is a regular file, as far as this user may know."""
    try:
        return path.is_file()
    except PermissionError:
        return True  # who reads it says so


def expand_objects(pattern: str, left_out: LeftOut) -> list[tuple[str, str]]:
    """(URI, name) of every object that is named; the name is relative to the fixed folders."""
    bucket, path = split(pattern)
    if path and not pattern.endswith("/") and _is_object(pattern):
        return [(pattern, path.rpartition("/")[2])]
    parts = path.split("/") if path else []
    fixed = first_magic(parts)
    folder = "/".join([bucket, *parts[:fixed]])
    start = len("/".join(parts[:fixed])) + 1 if fixed else 0  # a key below the folder is its rest
    found = {key[start:]: about.size for key, about in list_objects(folder)}
    # Some tools leave an empty object where others see a folder.
    folders = {name[:n] for name in found for n, letter in enumerate(name) if letter == "/"}
    wanted = parts[fixed:] or ANY_PARQUET
    named = []
    for name, size in sorted(found.items()):
        if not size and name in folders:
            continue
        if fits(name.split("/"), wanted):
            named.append((f"{folder}/{name}", name))
        elif reason := why_not(name.split("/"), wanted):
            left_out.add(f"{folder}/{name}", reason)
    return named


def _is_object(uri: str) -> bool:
    try:
        stat(uri)
    except FileNotFoundError:
        return False
    return True


def hidden(name: str, *, folder: bool = False) -> bool:
    """True for a hidden name; a folder of a partition, `_day=1`, is not hidden."""
    return name.startswith(("_", ".")) and not (folder and "=" in name)


def why_not(parts: Sequence[str], pattern: Sequence[str]) -> str:
    """Why a file is left out: hidden, suffix; "" where a glob does not ask for it."""
    if any(hidden(part, folder=True) for part in parts[:-1]) or hidden(parts[-1]):
        shown = [part if n < len(parts) - 1 else part.lstrip("_.") for n, part in enumerate(parts)]
        return "hidden" if tuple(pattern) == ANY_PARQUET or fits(shown, pattern) else ""
    return "suffix" if tuple(pattern) == ANY_PARQUET else ""


def may_hold(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether names below a folder may fit a glob."""
    if not parts:
        return bool(pattern)
    if not pattern or hidden(parts[0], folder=True):
        return False
    if pattern[0] == "**":
        return not any(hidden(part, folder=True) for part in parts)
    return fnmatchcase(parts[0], pattern[0]) and may_hold(parts[1:], pattern[1:])


def fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a name fits a glob; ** is any number of folders, and hidden names fit nothing."""
    if not pattern or not parts:
        return not (pattern or parts)
    if pattern[0] == "**" and len(pattern) > 1 and fits(parts, pattern[1:]):
        return True
    if hidden(parts[0], folder=len(parts) > 1):
        return False
    if pattern[0] == "**":
        return len(parts) == 1 == len(pattern) or fits(parts[1:], pattern)
    return _like(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])


def _like(name: str, pattern: str) -> bool:
    if pattern == PARQUET:
        return name.lower().endswith(SUFFIXES)
    return fnmatchcase(name, pattern)
