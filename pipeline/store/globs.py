"""Which files of a folder, or objects of a bucket, a glob names: by the same rules."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from embedmill.pipeline.store.client import split
from embedmill.pipeline.store.objects import list_objects, stat

MAGIC = re.compile(r"[*?[]")
ANY_PARQUET = ("**", "*.parquet")  # of a folder


def first_magic(parts: Sequence[str]) -> int:
    """How many parts of a path come before the first that is a pattern."""
    return next((n for n, part in enumerate(parts) if MAGIC.search(part)), len(parts))


def expand_files(
    root: Path, pattern: Sequence[str], refused: Callable[[OSError], None]
) -> Iterator[str]:
    """Names below the root, with slashes, of the files that fit; links to files are files.

    `refused` gets the error of each folder that cannot be listed, which pathlib would skip. Under
    ** no link to a folder is followed: it may lead into a circle.
    """
    for folder, folders, files in os.walk(root, onerror=refused, followlinks=True):
        parts = Path(folder).relative_to(root).parts
        deep = "**" in pattern[: len(parts) + 1]
        folders[:] = [
            name
            for name in folders
            if may_hold([*parts, name], pattern) and not (deep and Path(folder, name).is_symlink())
        ]
        for name in files:
            if fits([*parts, name], pattern) and _is_file(f"{folder}/{name}"):
                yield "/".join([*parts, name])


def _is_file(path: str) -> bool:
    """Whether it is a regular file, as far as this user may know."""
    try:
        return Path(path).is_file()
    except PermissionError:
        return True  # who reads it says so


def expand_objects(pattern: str) -> list[tuple[str, str]]:
    """(URI, name) of every object that is named; the name is relative to the fixed folders."""
    bucket, path = split(pattern)
    if path and not pattern.endswith("/") and _is_object(pattern):
        return [(pattern, path.rpartition("/")[2])]
    parts = path.split("/") if path else []
    fixed = first_magic(parts)
    folder = "/".join([bucket, *parts[:fixed]])
    start = len(folder) - len(bucket)
    found = {path[start:]: about.size for path, about in list_objects(folder)}
    # Some tools leave an empty object where others see a folder.
    folders = {name[:n] for name in found for n, letter in enumerate(name) if letter == "/"}
    return [
        (f"{folder}/{name}", name)
        for name, size in found.items()
        if (size or name not in folders) and fits(name.split("/"), parts[fixed:] or ANY_PARQUET)
    ]


def _is_object(uri: str) -> bool:
    try:
        stat(uri)
    except FileNotFoundError:
        return False
    return True


def may_hold(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether names below a folder may fit a glob."""
    if not parts:
        return bool(pattern)
    if not pattern or parts[0].startswith(("_", ".")):
        return False
    if pattern[0] == "**":
        return not any(part.startswith(("_", ".")) for part in parts)
    return fnmatchcase(parts[0], pattern[0]) and may_hold(parts[1:], pattern[1:])


def fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a name fits a glob; ** is any number of folders, and hidden names fit nothing."""
    if not pattern or not parts:
        return not (pattern or parts)
    if pattern[0] == "**" and len(pattern) > 1 and fits(parts, pattern[1:]):
        return True
    if parts[0].startswith(("_", ".")):
        return False
    if pattern[0] == "**":
        return len(parts) == 1 == len(pattern) or fits(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])
