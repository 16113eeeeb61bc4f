"""The output's storage: a few verbs, and one instant at which an object becomes visible.

`create` is the only way to make an object and it never replaces one: the conditional creation of
one immutable object is the commit, of a part as of a manifest. `local.py` does it in a folder,
`bucket.py` in S3, GCS or Azure; `objects.py` is what input and output share of these.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from embedmill.pipeline.store.bucket import BucketStore
from embedmill.pipeline.store.client import SCHEMES, split
from embedmill.pipeline.store.local import LocalStore
from embedmill.schemas.errors import StorageError

AT_ONCE = 16  # requests to a bucket
T, U = TypeVar("T"), TypeVar("U")
# Verbs of both: create, read, open, size, sha256, list, delete, probe; uri and where(name).
Store = LocalStore | BucketStore


def open_store(uri: str) -> Store:
    """The store of an output folder; StorageError for a scheme that it cannot write to."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalStore(Path(os.path.expanduser(uri)).absolute())
    if scheme == "file":
        return LocalStore(Path(os.path.expanduser(rest)).absolute())
    if scheme not in SCHEMES:
        what = f"{scheme}:// is no store of ours"
        raise StorageError("STORE_UNSUPPORTED", uri, what, f"use a path or {', '.join(SCHEMES)}")
    return BucketStore(*split(uri))


def each(store: Store, call: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """What the call gives for each item, in order; on a bucket most of it is waiting, together."""
    if not isinstance(store, BucketStore):
        return [call(item) for item in items]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, items))
