"""Data sets of the Hugging Face hub as input, by fsspec: `hf://datasets/OWNER/NAME[@REVISION]/PATH`.

The hub's own client speaks fsspec and obstore does not speak to the hub, so that here, and only
here, fsspec is the way. It is asked for three things: what lies under a folder, what a file is now,
and a range of its bytes. Credentials are the client's: HF_TOKEN, or what `hf auth login` leaves.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from embedmill.pipeline.store.client import aside
from embedmill.schemas.errors import InputError, StoreAway

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEME = "hf"
HOME = f"{SCHEME}://datasets/"
T = TypeVar("T")


def is_hub(uri: str) -> bool:
    """Whether a URI is of the hub."""
    return uri.startswith(f"{SCHEME}://")


def list_files(uri: str) -> Iterator[tuple[str, int, str]]:
    """(URI, size, version) of all files under a folder; none if there is no such data set."""
    if len(uri.split("/")) < 5 or not uri.startswith(HOME):
        do = f"write {HOME}OWNER/NAME/PATH"
        raise InputError("NO_INPUT", uri, "names no data set of the hub", do)
    try:
        found = _ask(uri, lambda hub: hub.find(uri, detail=True, refresh=True))
    except FileNotFoundError:
        return
    for name, about in found.items():
        yield f"{SCHEME}://{name}", about["size"], _version(about)


def about_file(uri: str) -> tuple[int, str]:
    """(size, version) of a file as it is now; FileNotFoundError if there is none."""
    is_inside = len(uri.split("/")) > 5
    found = is_inside and _ask(uri, lambda hub: hub.info(uri, refresh=True, expand_info=True))
    if not found or found["type"] != "file":
        raise FileNotFoundError(errno.ENOENT, "there is no such file", uri)
    return found["size"], _version(found)


def read_range(uri: str, size: int, start: int, end: int) -> bytes:
    """Some bytes of a file of that size, by one request."""

    def fetch(hub: AbstractFileSystem) -> bytes:
        with hub.open(uri, "rb", cache_type="none", size=size) as file:
            file.seek(start)
            return file.read(end - start)

    return _ask(uri, fetch)


def _version(about: dict[str, Any]) -> str:
    """The hash that git knows the content by: another commit may have the same."""
    return about["blob_id"]


def _ask(uri: str, call: Callable[[AbstractFileSystem], T]) -> T:
    """What a call gives; the client repeats requests by itself.

    Its messages may hold signed addresses, so that they are never ours.
    """
    import fsspec
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # ours is the only voice on stderr
    try:
        return aside(lambda: call(fsspec.filesystem(SCHEME)))
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", uri) from None
    except Exception as error:  # of the hub's client, of its transport, of the sockets below
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            what, do = f"the hub refuses this token ({status})", "set HF_TOKEN to one that may read"
            raise StoreAway("ACCESS_DENIED", uri, what, do) from None
        said = f"it answers {status}" if status else f"the request failed ({type(error).__name__})"
        do = "see HF_HUB_OFFLINE and the network; the same command resumes"
        raise StoreAway("STORE_AWAY", uri, f"the hub: {said}", do) from None
