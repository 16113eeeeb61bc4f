"""Which objects of a bucket a path, a folder or a glob names, by the rules of local files."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from pipeline.store.client import split
from pipeline.store.objects import list_objects, stat

MAGIC = re.compile(r"[*?[]")
ANY_PARQUET = ["**", "*.parquet"]  # of a folder


def expand_objects(pattern: str) -> list[tuple[str, str]]:
    """(URI, name) of every object that is named; the name is relative to the fixed folders."""
    bucket, path = split(pattern)
    if path and not pattern.endswith("/") and _is_object(pattern):
        return [(pattern, path.rpartition("/")[2])]
    parts = path.split("/") if path else []
    fixed = next((n for n, part in enumerate(parts) if MAGIC.search(part)), len(parts))
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


def fits(parts: list[str], pattern: list[str]) -> bool:
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
