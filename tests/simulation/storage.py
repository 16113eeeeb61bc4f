"""What the actors share: the output's objects and the input's files, in memory, with a history."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from tests.simulation.world import World

ROOT = "/simulated/out"
FOLDER = "/simulated/in"


@dataclass(slots=True)
class Object:
    """An object of the output, there or deleted."""

    data: bytes
    created: int  # step
    deleted: int | None = None


class Bucket:
    """The objects as the store itself has them: each request happens at one instant."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.there: dict[str, Object] = {}
        self.past: dict[str, list[Object]] = {}

    def create(self, name: str, data: bytes) -> bool:
        """Put if absent."""
        if name in self.there:
            return False
        self.put(name, data)
        return True

    def put(self, name: str, data: bytes) -> None:
        """Unconditional: for stores that lie."""
        before = self.there.get(name)
        if before is not None and before.data != data:
            self.world.broken("changed", f"{name} was visible and has other bytes now")
        self.there[name] = Object(data, self.world.step)
        self.past.setdefault(name, []).append(self.there[name])
        self.world.created(name)

    def delete(self, name: str) -> None:
        """Nothing if there is none."""
        if name in self.there:
            self.world.deleting(name)
            self.there.pop(name).deleted = self.world.step

    def names(self, folder: str, step: int | None = None) -> list[str]:
        """Objects under a folder, sorted; or those that were there after some step."""
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        if step is None:
            return sorted(name for name in self.there if name.startswith(prefix))
        return sorted(
            name
            for name, objects in self.past.items()
            if name.startswith(prefix)
            and any(o.created <= step and (o.deleted is None or o.deleted > step) for o in objects)
        )


class SimulatedStore:
    """The verbs of `Store` over a bucket; every call is a request that may fail.

    `free`: for those who look on from outside. Their calls take no time and never fail.
    """

    def __init__(self, world: World, free: bool = False) -> None:
        self.uri = ROOT
        self.world, self.bucket, self.free = world, world.bucket, free

    def where(self, name: str) -> str:
        return f"{self.uri}/{name}"

    def create(self, name: str, data: pa.Buffer | bytes) -> bool:
        """As folders do it; or as object storage is made use of, where equal bytes are ours."""
        content = bytes(data)
        while not self._request("create", name, lambda: self.bucket.create(name, content)):
            if not self.world.equal_is_ours:
                return False
            with suppress(FileNotFoundError):
                return self.read(name) == content
        return True

    def read(self, name: str) -> bytes:
        return self._request("read", name, lambda: self._there(name))

    def open(self, name: str) -> pa.NativeFile:
        return pa.BufferReader(self._request("open", name, lambda: self._there(name)))

    def size(self, name: str) -> int | None:
        there = self.bucket.there
        return self._request("size", name, lambda: len(there[name].data) if name in there else None)

    def sha256(self, name: str) -> str:
        data = self._request("sha256", name, lambda: self._there(name))
        return hashlib.sha256(data).hexdigest()

    def list(self, folder: str) -> Iterator[str]:
        names = self._request("list", folder, lambda step=None: self.bucket.names(folder, step))
        yield from names

    def delete(self, name: str) -> None:
        self._request("delete", name, lambda: self.bucket.delete(name))

    def probe(self, single_writer: bool = False) -> str:
        """Stores that lie are mutations here, and are to be found by what they do."""
        return "atomic"

    def _there(self, name: str) -> bytes:
        if name not in self.bucket.there:
            raise FileNotFoundError(name)
        return self.bucket.there[name].data

    def _request(self, verb: str, name: str, act: Any) -> Any:
        if self.free or self.world.scheduler.current is None:
            return act()
        return self.world.request(verb, name, act)


class Inputs:
    """The input folder: each write makes a new version of one shard."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now: dict[str, tuple[str, int]] = {}  # uri -> (version, content)
        self.contents: dict[tuple[str, str], int] = {}  # (uri, version) -> content
        self.log: list[tuple[int, str, str | None]] = []  # step, uri, version or None

    def write(self, shard: int, content: int | None) -> None:
        """Replaces the shard, by equal content as well; None removes it, but never the last."""
        uri = f"{FOLDER}/{shard}.parquet"
        if content is None:
            if uri not in self.now or len(self.now) == 1:
                return
            del self.now[uri]
        else:
            self.now[uri] = (str(1 + len(self.log)), content)
            self.contents[uri, self.now[uri][0]] = content
        self.log.append((self.world.step, uri, self.now[uri][0] if content is not None else None))

    def versions(self, uri: str, began: int, ended: int) -> set[str | None]:
        """Every version that the shard had at some time between two steps; None = not there."""
        before: str | None = None
        seen = set()
        for step, name, version in self.log:
            if name != uri:
                continue
            if step <= began:
                before = version
            elif step <= ended:
                seen.add(version)
        return {before, *seen}

    def expand(self, pattern: str) -> list[tuple[str, str]]:
        """In place of pipeline.plan.shards._expand."""
        uris = self.world.look("list input", pattern, lambda: sorted(self.now))
        return [(uri, uri.rpartition("/")[2]) for uri in uris]

    def version_now(self, uri: str) -> tuple[int, str]:
        """In place of pipeline.plan.shards.version_now."""
        version, content = self.world.look("version", uri, lambda: self._there(uri))
        return len(parquet(uri, content)), version

    def open_shard(self, uri: str) -> pa.NativeFile:
        """In place of pipeline.plan.shards.open_shard."""
        _, content = self.world.look("read input", uri, lambda: self._there(uri))
        return pa.BufferReader(parquet(uri, content))

    def _there(self, uri: str) -> tuple[str, int]:
        if uri not in self.now:
            raise FileNotFoundError(uri)
        return self.now[uri]


@functools.cache
def texts(uri: str, content: int) -> list[str | None]:
    """The rows of a shard: most of them its own, some shared with others, some without a text."""
    seed = hashlib.sha256(f"{uri} {content}".encode()).digest()
    count = 1 + int(uri.rpartition("/")[2][0]) + (content == 2)  # the others are alike in size
    rows: list[str | None] = []
    for row in range(count):
        kind = seed[1 + row] % 8
        own = f"{uri} {content} {row}"
        rows.append({0: None, 1: " ", 2: "the same everywhere", 3: f"row {row}"}.get(kind, own))
    return rows


@functools.cache
def parquet(uri: str, content: int) -> bytes:
    """The bytes of a shard."""
    sink = pa.BufferOutputStream()
    table = pa.table({"text": pa.array(texts(uri, content), pa.string())})
    pq.write_table(table, sink, row_group_size=3, write_page_checksum=True)
    return sink.getvalue().to_pybytes()
