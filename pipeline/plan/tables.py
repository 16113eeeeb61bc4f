"""Refuses a folder that is a table: its log, and no listing, says which of its files count."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from embedmill.pipeline.store import hub
from embedmill.pipeline.store.client import split
from embedmill.pipeline.store.objects import list_objects
from embedmill.schemas.errors import InputError

# a folder inside a table -> the format, and what that folder must hold for it
MARKS = {
    "_delta_log": ("Delta", ""),
    ".hoodie": ("Hudi", ""),
    "metadata": ("Iceberg", ".metadata.json"),
    "_versions": ("Lance", ".manifest"),
}


def refuse_table(pattern: str, root: Path) -> None:
    """InputError if a local folder, one above it, or one right below it is a table."""
    below = (path for path in root.iterdir() if path.is_dir()) if root.is_dir() else ()
    for folder in (root, *root.parents, *below):
        for mark, (kind, holds) in MARKS.items():
            inside = folder / mark
            if inside.is_dir() and (not holds or _holds(inside, holds)):
                raise table_error(pattern, str(folder), kind)


def _holds(folder: Path, suffix: str) -> bool:
    try:
        return any(path.name.endswith(suffix) for path in folder.iterdir())
    except OSError:
        return False


def refuse_table_objects(pattern: str, folder: str) -> None:
    """The same of a folder in a bucket: by its keys, and by the logs of the folders above it."""
    bucket, path = split(folder)
    _refuse_keys(pattern, bucket, (key for key, _ in list_objects(folder)))
    if hub.is_hub(folder):
        return
    parts = path.split("/") if path else []
    for depth in range(len(parts)):
        above = "/".join([bucket, *parts[:depth]])
        for mark in MARKS:
            _refuse_keys(pattern, bucket, (key for key, _ in list_objects(f"{above}/{mark}")))


def _refuse_keys(pattern: str, bucket: str, keys: Iterable[str]) -> None:
    for key in keys:
        parts = key.split("/")
        for n, part in enumerate(parts[:-1]):
            kind, holds = MARKS.get(part, ("", ""))
            if kind and parts[-1].endswith(holds):
                raise table_error(pattern, "/".join([bucket, *parts[:n]]), kind)


def table_error(pattern: str, folder: str, kind: str) -> InputError:
    """The error for a table that is named as plain files."""
    where = "" if folder == pattern.rstrip("/") else f" (input.path names {pattern})"
    return InputError(
        "TABLE_FOLDER",
        folder,
        f"is a {kind} table{where}: its log says which files count, and others lie beside them",
        "give input.path a list of the files that count",
    )
