"""Finds the input's shards and reads their footers, in parallel.

Comes in: the spec's input. Goes out: every shard with its version, row groups and Arrow schema,
sorted by URI. Whatever can be known to be wrong with a shard is said here, before any encoding.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.pipeline.plan.tables import refuse_table, refuse_table_objects
from embedmill.pipeline.store import hub, objects
from embedmill.pipeline.store.client import SCHEMES
from embedmill.pipeline.store.globs import (
    ANY_PARQUET,
    LeftOut,
    expand_files,
    expand_objects,
    first_magic,
)
from embedmill.schemas.errors import EmbedmillError, InputError, StorageError
from embedmill.schemas.plan import Shard
from embedmill.schemas.spec import Input

PROTOCOLS = ("file", *SCHEMES, hub.SCHEME)
MAX_FOOTER = 256 << 20  # bytes; more is not a footer but a bomb
MAX_ROWS = 1 << 32  # of one shard; a footer may claim any number, and each asks for a unit


@dataclass(frozen=True, slots=True)
class Found:
    """A shard and what its footer says."""

    shard: Shard
    row_groups: tuple[int, ...]  # rows of each
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Listing:
    """All shards of an input, those that could not be read, and what else lies there."""

    found: list[Found]
    quarantined: list[InputError]
    others: LeftOut = field(default_factory=LeftOut)

    @property
    def left_out(self) -> list[str]:
        """Where those are."""
        return [error.where for error in self.quarantined]


def list_shards(spec: Input, output: str) -> Listing:
    """Lists the shards of the input and reads their footers; InputError if there are none."""
    patterns = [spec.path] if isinstance(spec.path, str) else spec.path
    places: dict[str, tuple[str, str]] = {}  # where it lies -> (uri, name)
    others, real = LeftOut(), functools.cache(os.path.realpath)
    for pattern in patterns:
        for uri, name in _expand(pattern, others):
            places.setdefault(_place(uri, real), (uri, name))
    closed = {error.filename: _closed(error) for error in others.closed}
    _refuse_own_output(places, output)
    files = dict(places.values())
    _refuse_equal_names(files, spec.id)
    with ThreadPoolExecutor(max_workers=32) as pool:
        results = list(pool.map(_read_or_error, sorted(files), (files[u] for u in sorted(files))))
    bad = [closed[where] for where in sorted(closed)]
    bad += [result for result in results if isinstance(result, InputError)]
    found = [result for result in results if isinstance(result, Found)]
    if bad and spec.on_bad_file == "fail":
        raise _all_of(bad)
    if not found:
        raise bad[0]
    return Listing(found, bad, others)


def refuse_output_above(spec: Input, output: str) -> None:
    """InputError if a path of the input lies under the output: asked before anything is written.

    What leads there by a link is found when the input is listed.
    """
    for pattern in [spec.path] if isinstance(spec.path, str) else spec.path:
        path = os.path.expanduser(pattern.removeprefix("file://"))
        if "://" not in path:
            parts = Path(path).absolute().parts
            path = os.path.realpath(Path(*parts[: first_magic(parts)]))
        _refuse_own_output({path: (pattern, "")}, output)


def open_shard(uri: str) -> pa.NativeFile:
    """A shard for ranged reads; one in a bucket raises INPUT_CHANGED once it is replaced."""
    return objects.open_object(uri, keep=True) if "://" in uri else pa.OSFile(uri)


def open_parquet(source: pa.NativeFile) -> pq.ParquetFile:
    """A shard whose pages are verified as they are read; ArrowException or OSError if it is none.

    A library that is imported here may have registered extension types, whose code then opens
    theirs and raises whatever it likes; this too is a fault of the file.
    """
    try:
        return pq.ParquetFile(
            source,
            page_checksum_verification=True,
            pre_buffer=False,
            coerce_int96_timestamp_unit="us",  # in ns, the year 9999 would read as 1816
        )
    except (pa.ArrowException, OSError, MemoryError, EmbedmillError):
        raise
    except Exception as error:
        raise pa.ArrowInvalid(f"{type(error).__name__}: {error}") from None


def version_now(uri: str) -> tuple[int, str]:
    """(bytes, version) of a file as it is now: mtime in ns, or the ETag of an object."""
    if "://" not in uri:
        entry = os.stat(uri)
        if not stat.S_ISREG(entry.st_mode):
            raise InputError("NOT_A_FILE", uri, "not a regular file", "name Parquet files only")
        return entry.st_size, str(entry.st_mtime_ns)
    found = objects.stat(uri)
    return found.size, found.version


def _expand(pattern: str, others: LeftOut) -> list[tuple[str, str]]:
    """(uri, name) of every file that a path, folder or glob names; what is not read in `others`."""
    scheme, separator, _ = pattern.partition("://")
    if separator and scheme not in PROTOCOLS:
        raise InputError(
            "SCHEME", pattern, f"{scheme}:// is not supported", f"use {', '.join(PROTOCOLS)}"
        )
    if separator and scheme != "file":
        before = others.counts.total()
        files = expand_objects(pattern, others)
        if files and (len(files) > 1 or files[0][0] != pattern):
            refuse_table_objects(pattern, files[0][0][: -len(files[0][1]) - 1])
        if files:
            return files
        raise _nothing(pattern, _only(others, before, "matches no object"))
    path = Path(os.path.expanduser(pattern.split("://", 1)[-1])).absolute()
    try:
        if path.is_file():
            return [(str(path), path.name)]
        root = path if path.is_dir() else Path(*path.parts[: first_magic(path.parts)])
        if not root.is_dir():
            if path.exists():
                version_now(str(path))  # a pipe or a device: says so
            raise _nothing(pattern, "no such file or folder")
    except PermissionError:
        raise _unreadable(str(path)) from None
    refuse_table(pattern, root)
    before = others.counts.total()
    names = list(expand_files(root, path.relative_to(root).parts or ANY_PARQUET, others))
    if not names and not others.closed:
        raise _nothing(pattern, _only(others, before, "matches no file"))
    return [(f"{root / name}", name) for name in names]


def _only(others: LeftOut, before: int, what: str) -> str:
    """The words on an input without a file to read; they name what else lies there."""
    count = others.counts.total() - before
    if not count:
        return what
    where, reason = others.named[-1]
    do = "; a glob such as /* takes files of any suffix" if reason == "suffix" else ""
    return f"{what}, {count:,} were left out (the last: {where}, {reason}){do}"


def _unreadable(where: str) -> InputError:
    do = "give this user the right to read it"
    return InputError("NOT_READABLE", where, "permission denied", do)


def _closed(error: OSError) -> InputError:
    """A folder that cannot be listed."""
    if isinstance(error, PermissionError):
        return _unreadable(error.filename)
    return InputError("NOT_READABLE", error.filename, f"cannot be listed ({error.strerror})")


def _nothing(pattern: str, what: str) -> InputError:
    return InputError("NO_INPUT", pattern, what, "check input.path")


def _place(uri: str, real: Callable[[str], str]) -> str:
    """Where a file lies, however the path to its folder is spelled."""
    folder, _, name = uri.rpartition("/")
    return uri if "://" in uri else f"{real(folder or '/')}/{name}"


def _refuse_own_output(places: dict[str, tuple[str, str]], output: str) -> None:
    root = output if "://" in output else os.path.realpath(output)
    inside = [uri for place, (uri, _) in places.items() if Path(place).is_relative_to(root)]
    if inside:
        raise InputError(
            "INPUT_INSIDE_OUTPUT", inside[0], f"lies under output.path {output}", "keep them apart"
        )


def _refuse_equal_names(files: dict[str, str], id_column: str | None) -> None:
    if id_column is not None or len(set(files.values())) == len(files):
        return
    seen: dict[str, str] = {}
    for uri, name in files.items():
        if name in seen:
            raise InputError(
                "SHARD_NAMES",
                uri,
                f"has the name of {seen[name]}, and default ids are <shard>#<row>",
                "name an id column in input.id, or give one folder",
            )
        seen[name] = uri


def _read_or_error(uri: str, name: str) -> Found | EmbedmillError:
    try:
        return _read_footer(uri, name)
    except InputError as error:
        return error
    except StorageError as error:
        if error.code != "ARCHIVED":
            raise
        return InputError(error.code, uri, error.what, error.do)
    except PermissionError:
        return _unreadable(uri)
    except FileNotFoundError:
        return InputError("INPUT_GONE", uri, "was listed but is gone", "run again")
    except UnicodeEncodeError:
        return InputError("SHARD_NAME", ascii(uri), "its name is not UTF-8", "rename it")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        return InputError("NOT_PARQUET", uri, f"its footer cannot be read ({_first_line(error)})")


def footer_digest(file: pa.NativeFile, uri: str, size: int) -> str:
    """First half of the sha256 of the footer, 32 hex; InputError if there is none to be read."""
    if size < 12:
        raise InputError("NOT_PARQUET", uri, f"{size} bytes are no Parquet file")
    head = file.read_at(4, 0)
    tail = file.read_at(8, size - 8)
    if len(tail) < 8:  # it is shorter than a moment ago
        do = "run again: it plans anew"
        raise InputError("INPUT_CHANGED", uri, "changed while it was read", do)
    length, magic = struct.unpack("<I4s", tail)
    if magic == b"PARE":
        raise InputError("ENCRYPTED", uri, "its footer is encrypted", "decrypt it first")
    if magic != b"PAR1" or head != b"PAR1":
        what = "is truncated" if head == b"PAR1" else f"is not Parquet, it starts with {head!r}"
        raise InputError("NOT_PARQUET", uri, what)
    if not 0 < length <= min(size - 12, MAX_FOOTER):
        raise InputError("NOT_PARQUET", uri, f"its footer claims {length} bytes of {size}")
    return hashlib.sha256(file.read_at(length, size - 8 - length)).hexdigest()[:32]


def _read_footer(uri: str, name: str) -> Found:
    size, version = version_now(uri)
    with open_shard(uri) as file:
        digest = footer_digest(file, uri, size)
        parquet = open_parquet(file)
        metadata, schema = parquet.metadata, parquet.schema_arrow
    groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if sum(groups) != metadata.num_rows:
        raise InputError("NOT_PARQUET", uri, "its row groups and its row count disagree")
    if min(groups, default=0) < 0 or metadata.num_rows > MAX_ROWS:
        raise InputError("NOT_PARQUET", uri, f"its footer claims {metadata.num_rows} rows")
    shard = Shard(uri, name, size, version, digest, metadata.num_rows)
    return Found(shard, groups, schema)


def _all_of(errors: list[InputError]) -> InputError:
    first = errors[0]
    more = f" (and {len(errors) - 1} more shards)" if len(errors) > 1 else ""
    do = first.do or "mend it, or set input.on_bad_file: quarantine"
    return InputError(first.code, first.where, first.what + more, do)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
