"""Output in object storage: S3 and what speaks its protocol, GCS, Azure.

The commit is one PUT that the store refuses if the name is taken (`If-None-Match: *`, or what the
store calls it), never a multipart upload, whose end not every store checks. An answer may be lost,
and the client, asking again, is then refused by its own success. So a refusal only counts after
what stands there was read: equal bytes are ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from embedmill.pipeline.store.client import (
    LARGE,
    TRIES,
    aside,
    ask,
    connect,
    failure,
    passing,
    rest,
)
from embedmill.pipeline.store.objects import list_objects, open_object, read_whole, sha256_of, stat
from embedmill.pipeline.store.probe import prove


class BucketStore:
    """A folder of a bucket as the output's store. Names are relative, with forward slashes."""

    def __init__(self, bucket: str, path: str) -> None:
        self.bucket, self.path = bucket, path
        self.uri = f"{bucket}/{path}".rstrip("/")

    def where(self, name: str) -> str:
        """An object's URI."""
        return f"{self.uri}/{name}"

    def create(self, name: str, data: pa.Buffer | bytes) -> bool:
        """Makes the object, whole or not at all; False if the name is taken already."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        body = memoryview(data).cast("B")
        for turn in range(1, TRIES + 1):
            try:
                aside(lambda: self._put(name, body, "create"))
                return True
            except NotImplementedError:
                return self._look_and_put(name, body)
            except AlreadyExistsError as error:
                # Taken; or by our own request, whose answer was lost; or others write just now.
                refused: Exception = error
            except (BaseError, FileNotFoundError, ValueError) as error:
                if not passing(error):
                    raise failure(self.where(name), error) from None
                refused = error  # whether it was done nobody knows
            if (standing := self._standing(name, len(body))) is not None:
                return standing == body
            rest(turn)
        raise failure(self.where(name), refused)

    def read(self, name: str) -> bytes:
        """The whole object; FileNotFoundError if there is none."""
        return read_whole(self.where(name))

    def open(self, name: str) -> pa.NativeFile:
        """The object for ranged reads; FileNotFoundError if there is none."""
        return open_object(self.where(name))

    def size(self, name: str) -> int | None:
        """Bytes of the object; None if there is none."""
        try:
            return stat(self.where(name)).size
        except FileNotFoundError:
            return None

    def sha256(self, name: str) -> str:
        """Digest of the object as it reads now, 64 hex digits."""
        return sha256_of(self.where(name))

    def list(self, folder: str) -> Iterator[str]:
        """Names of all objects under a folder, sorted."""
        start = len(self.path) + 1 if self.path else 0
        yield from sorted(path[start:] for path, _ in list_objects(self.where(folder)))

    def delete(self, name: str) -> None:
        """Removes the object; nothing if there is none."""
        import obstore

        with contextlib.suppress(FileNotFoundError):
            ask(self.where(name), lambda: obstore.delete(connect(self.bucket), self._path(name)))

    def probe(self, single_writer: bool = False) -> str:
        """`atomic`; if it is not, StorageError, or with `single_writer` what it is instead."""
        return prove(self, single_writer)

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def _put(self, name: str, body: memoryview, mode: str) -> None:
        import obstore

        client = connect(self.bucket, "write" if len(body) <= LARGE else "write large")
        obstore.put(client, self._path(name), body, mode=mode, use_multipart=False)

    def _look_and_put(self, name: str, body: memoryview) -> bool:
        """For AWS_CONDITIONAL_PUT=disabled. Two writers may both look: `probe` sees to that."""
        if self.size(name) is not None:
            return False
        ask(self.where(name), lambda: self._put(name, body, "overwrite"))
        return True

    def _standing(self, name: str, size: int) -> bytes | None:
        """What is there under the name, if it has that size, else something else; None: nothing."""
        there = self.size(name)
        if there is None:
            return None
        try:
            return self.read(name) if there == size else b""
        except FileNotFoundError:
            return None
