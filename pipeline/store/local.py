"""Output in a folder of a file system.

A creation is a scratch file, fsynced and read back, then `link` (exclusive, unlike a rename) and an
fsync of the folder.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from embedmill.pipeline.store.probe import prove
from embedmill.schemas.errors import StorageError

SCRATCH = "_embed/scratch"


class LocalStore:
    """A folder as the output's store. Names are relative, with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, str(root)

    def where(self, name: str) -> str:
        """An object's path."""
        return f"{self.uri}/{name}"

    def create(self, name: str, data: pa.Buffer | bytes) -> bool:
        """Makes the object, whole or not at all; False if the name is taken already."""
        target = self.root / name
        try:
            while not (linked := self._attempt(target, data)) and not target.exists():
                pass  # a gc beside us took the scratch file: write it again
        except OSError as error:
            raise _storage_error(target, error) from None
        return linked

    def _attempt(self, target: Path, data: pa.Buffer | bytes) -> bool:
        scratch = self.root / SCRATCH / f"{uuid.uuid4().hex}.attempt"
        scratch.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if _sha256(scratch) != hashlib.sha256(data).digest():
                raise StorageError(
                    "STORE_LIES",
                    str(target),
                    "what was written reads back differently",
                    "check the disk",
                )
            os.link(scratch, target)
        except (FileExistsError, FileNotFoundError):
            return False
        finally:
            scratch.unlink(missing_ok=True)
        _fsync_folder(target.parent)
        return True

    def read(self, name: str) -> bytes:
        """The whole object; FileNotFoundError if there is none."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _storage_error(self.root / name, error) from None

    def open(self, name: str) -> pa.NativeFile:
        """The object for ranged reads; FileNotFoundError if there is none."""
        return pa.OSFile(str(self.root / name))

    def size(self, name: str) -> int | None:
        """Bytes of the object; None if there is none."""
        try:
            return (self.root / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sha256(self, name: str) -> str:
        """Digest of the object as it reads now, 64 hex digits."""
        return _sha256(self.root / name).hex()

    def list(self, folder: str) -> Iterator[str]:
        """Names of all objects under a folder, sorted."""
        for path in sorted((self.root / folder).rglob("*")):
            if path.is_file():
                yield path.relative_to(self.root).as_posix()

    def delete(self, name: str) -> None:
        """Removes the object; nothing if there is none. Its folder stays: a writer may need it."""
        try:
            (self.root / name).unlink(missing_ok=True)
        except NotADirectoryError:
            pass
        except OSError as error:
            raise _storage_error(self.root / name, error) from None

    def probe(self, single_writer: bool = False) -> str:
        """`atomic`; if it is not, StorageError, or with `single_writer` what it is instead."""
        return prove(self, single_writer, "local folders need a file system with hard links")


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _storage_error(path: Path, error: OSError) -> StorageError:
    advice = {
        "ENOSPC": ("STORAGE_FULL", "free some space; the same command resumes"),
        "EACCES": (
            "NOT_WRITABLE",
            "give this user the right to write there, or choose another output.path",
        ),
        "EPERM": (
            "NOT_WRITABLE",
            "give this user the right to write there, or choose another output.path",
        ),
        "EROFS": ("NOT_WRITABLE", "choose an output.path that is not read-only"),
        "ENOTDIR": ("NOT_A_FOLDER", "output.path must be a folder"),
        "EEXIST": ("NOT_A_FOLDER", "output.path must be a folder"),
    }
    import errno

    name = errno.errorcode.get(error.errno or 0, "")
    code, do = advice.get(name, ("STORAGE", "the same command resumes when the store is well"))
    return StorageError(code, str(path), (error.strerror or str(error)).lower(), do)
