"""An output's store as the file system that Arrow's datasets read from; nothing can be written."""

from __future__ import annotations

from typing import Any, NoReturn

import pyarrow as pa
from pyarrow import fs

from embedmill.pipeline.store.output import Store, open_store


def filesystem_of(store: Store) -> fs.FileSystem:
    """A file system whose paths are the store's names; it can travel to other processes."""
    return fs.PyFileSystem(_Reader(store.uri))


class _Reader(fs.FileSystemHandler):
    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reader) and self.uri == other.uri

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def get_type_name(self) -> str:
        return f"embedmill+{self.uri}"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        sizes = [open_store(self.uri).size(path) for path in paths]
        kinds = [fs.FileType.NotFound if n is None else fs.FileType.File for n in sizes]
        return [fs.FileInfo(*info) for info in zip(paths, kinds, strict=True)]

    def open_input_file(self, path: str) -> pa.NativeFile:
        return open_store(self.uri).open(path)

    open_input_stream = open_input_file

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("an output is read through its snapshot, and only read")

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = _refuse
    delete_root_dir_contents = delete_file = move = copy_file = _refuse
    open_output_stream = open_append_stream = _refuse
