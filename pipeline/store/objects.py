"""Objects in buckets, by URI: what reading input and keeping output have in common.

Input may also lie on the Hugging Face hub: hub.py asks for its files. An object's version is its
ETag; a read whose object was replaced meanwhile is an error and never a mixture of two versions.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedmill.pipeline.store import hub
from embedmill.pipeline.store.client import ask, connect, split
from embedmill.schemas.errors import InputError

TAIL = 64 << 10  # bytes at the end of an object that come at once: where Parquet's footer is
NO_RANGES = "Received non-partial response"  # a store that always sends the whole object
KEPT_BYTES = 128 << 20  # in a process: of column chunks that are cut into several units


@dataclass(frozen=True, slots=True)
class Stat:
    """An object as it is now."""

    size: int
    version: str


def stat(uri: str) -> Stat:
    """Size and version of an object; FileNotFoundError if there is none."""
    import obstore

    if hub.is_hub(uri):
        return Stat(*hub.about_file(uri))
    bucket, path = split(uri)
    return _stat(ask(uri, lambda: obstore.head(connect(bucket), path)))


def list_objects(uri: str) -> Iterator[tuple[str, Stat]]:
    """(path in the bucket, what it is) of all objects under a folder, in no order."""
    import obstore

    bucket, path = split(uri)
    if hub.is_hub(uri):
        yield from ((split(file)[1], Stat(*about)) for file, *about in hub.list_files(uri))
        return
    for entry in ask(uri, lambda: obstore.list(connect(bucket), path or None).collect()):
        if entry["path"] != path:  # some stores have an object that stands for the folder
            yield entry["path"], _stat(entry)


def read_whole(uri: str) -> bytes:
    """All bytes of an object; FileNotFoundError if there is none."""
    import obstore

    bucket, path = split(uri)
    return ask(uri, lambda: obstore.get(connect(bucket), path).bytes()).to_bytes()


def sha256_of(uri: str) -> str:
    """Digest of an object as it reads now, 64 hex digits; it is never in memory whole."""
    import obstore

    bucket, path = split(uri)

    def digest() -> str:
        hasher = hashlib.sha256()
        for chunk in obstore.get(connect(bucket), path).stream():
            hasher.update(chunk)
        return hasher.hexdigest()

    return ask(uri, digest)


def download(uri: str, about: Stat, target: Path) -> None:
    """Writes that version of an object to a file; it is never in memory whole."""
    import obstore

    bucket, path = split(uri)

    def copy() -> None:
        answer = obstore.get(connect(bucket), path)
        _refuse_changed(uri, answer.meta, about)
        with target.open("wb") as file:
            for chunk in answer.stream():
                file.write(chunk)

    ask(uri, copy)


def open_object(uri: str, *, keep: bool = False) -> pa.NativeFile:
    """An object for ranged reads; FileNotFoundError if there is none.

    `keep`: ranges stay in memory for a while, for the next one who reads the same row group.
    """
    return pa.PythonFile(_Ranges(uri, stat(uri), keep), mode="r")


class _Ranges:
    """An object as the file that Arrow reads; each read is a request, but for the tail."""

    def __init__(self, uri: str, about: Stat, keep: bool) -> None:
        self.uri, self.about, self.keep = uri, about, keep
        self.place, self.closed = 0, False
        self.tail: Any = None

    def read(self, count: int = -1) -> Any:
        start, size = self.place, self.about.size
        end = size if count < 0 else min(size, start + count)
        if start >= end:
            return b""
        self.place = end
        first = max(0, size - TAIL)
        if start < first:
            return (self._kept if self.keep else self._fetch)(start, end)
        if self.tail is None:
            self.tail = self._fetch(first, size)
        return self.tail[start - first : end - first]

    def seek(self, place: int, whence: int = 0) -> int:
        self.place = place + (0, self.place, self.about.size)[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed, self.tail = True, None

    def _kept(self, start: int, end: int) -> Any:
        key = (self.uri, self.about.version, start, end)
        if (data := _recent.get(key)) is None:
            data = self._fetch(start, end)
            _recent.put(key, data)
        return data

    def _fetch(self, start: int, end: int) -> Any:
        import obstore
        from obstore.exceptions import GenericError

        if hub.is_hub(self.uri):
            return memoryview(hub.read_range(self.uri, self.about.size, start, end))
        bucket, path = split(self.uri)

        def request() -> Any:
            try:
                answer = obstore.get(connect(bucket), path, options={"range": (start, end)})
                part = slice(None)
            except GenericError as error:
                if NO_RANGES not in str(error):
                    raise
                answer, part = obstore.get(connect(bucket), path), slice(start, end)
            _refuse_changed(self.uri, answer.meta, self.about)
            return memoryview(answer.bytes())[part]

        return ask(self.uri, request)


class _Recent:
    """The ranges that were read last, as many as fit."""

    def __init__(self) -> None:
        self._lock, self._bytes = threading.Lock(), 0
        self._ranges: OrderedDict[tuple, Any] = OrderedDict()

    def get(self, key: tuple) -> Any:
        with self._lock:
            if key in self._ranges:
                self._ranges.move_to_end(key)
            return self._ranges.get(key)

    def put(self, key: tuple, data: Any) -> None:
        with self._lock:
            if key in self._ranges or len(data) > KEPT_BYTES:
                return
            self._ranges[key] = data
            self._bytes += len(data)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._ranges.popitem(last=False)[1])


_recent = _Recent()


def _refuse_changed(uri: str, meta: Any, about: Stat) -> None:
    if _stat(meta) != about:
        what, do = "changed while it was read", "run again: it plans anew"
        raise InputError("INPUT_CHANGED", uri, what, do)


def _stat(meta: Any) -> Stat:
    # Some stores quote an ETag in one answer and not in another; a store without ETags still
    # tells the second.
    tag = (meta["e_tag"] or "").removeprefix("W/").strip('"')
    return Stat(meta["size"], tag or f"{meta['last_modified']:%Y-%m-%dT%H:%M:%SZ}")
