"""Clients of object storage, and what their failures mean, in words that hold no secret.

Endpoint, region and credentials come from the environment or the usual files, into the client's
own memory only: nothing of them is ever in a plan, an output or a message.
"""

from __future__ import annotations

import errno
import functools
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from embedmill.pipeline.store.credentials import settings
from embedmill.schemas.errors import StorageError, StoreAway

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
TRIES = 3  # of ours; inside each the client retries what it may
RETRY_SECONDS = 60.0  # for which it does
LARGE = 16 << 20  # bytes; a body above may take minutes to send
# A read may last as long as bytes keep coming. A write hears nothing until it is done, so all of
# it is bounded, by what a slow line needs.
PATIENCE = {
    "read": {"timeout": "2h", "read_timeout": "60s"},
    "write": {"timeout": "60s"},
    "write large": {"timeout": "10min"},
}
ENVIRONMENT = re.compile(r"(AWS|AZURE|GOOGLE)_|(HTTPS?|ALL|NO)_PROXY$|HOME$", re.I)
# What the client's report of a failed connection has in it -> what it means.
CAUSES = {
    "TimedOut|timed out": "it did not answer in time",
    "ConnectionRefused": "nothing listens there",
    "ConnectionReset|ConnectionAborted|BrokenPipe|IncompleteMessage": "the connection broke",
    "dns error|failed to lookup": "no such host is known",
    "[Cc]ertificate": "its certificate is not trusted",
}
DENIED = "ExpiredToken|InvalidToken|InvalidAccessKeyId|TokenRefreshRequired"
ARCHIVED = ("InvalidObjectState", "BlobArchived", "BlobBeingRehydrated")
SKEWED = "RequestTimeTooSkewed"
# Asked last, for the machine's own account: nothing else had credentials.
MACHINE = r"169\.254\.|/latest/api/token|/latest/meta-data|computeMetadata|/metadata/identity"
EMPTY_NAME = "empty path segment|Path .* contained empty"  # of a key with //
ELSEWHERE = "redirect without LOCATION|PermanentRedirect|AuthorizationHeaderMalformed"

T = TypeVar("T")


def split(uri: str) -> tuple[str, str]:
    """A URI as its bucket and the path inside: ("s3://bucket", "a/b"). Names stay as they are."""
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    if not bucket:
        raise StorageError("STORE_NAME", uri, "names no bucket", f"write {scheme}://BUCKET/PATH")
    if path.startswith("/") or "//" in path.rstrip("/"):
        what = "has an empty folder name (//), which is not read as another place"
        raise StorageError("STORE_NAME", uri, what, "write it with single slashes, or move it")
    return f"{scheme}://{bucket}", path.strip("/")


def connect(bucket: str, kind: str = "read") -> ObjectStore:
    """The client of a bucket, one for each kind of PATIENCE; cheap after the first time."""
    environment = tuple(sorted(i for i in os.environ.items() if ENVIRONMENT.match(i[0])))
    return _connect(bucket, kind, RETRY_SECONDS, environment)


@functools.lru_cache(maxsize=64)
def _connect(
    bucket: str, kind: str, seconds: float, environment: tuple[tuple[str, str], ...]
) -> ObjectStore:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    retries = {
        "max_retries": 10,
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {
            "init_backoff": timedelta(seconds=seconds / 600),
            "max_backoff": timedelta(seconds=seconds / 4),
            "base": 2,
        },
    }
    # Every default endpoint is https; who names an http one in the environment means it.
    options = {"allow_http": True, "connect_timeout": "10s", **PATIENCE[kind]}
    found = settings(bucket, dict(environment))
    try:
        return from_url(bucket, client_options=options, retry_config=retries, **found)
    except (BaseError, ValueError) as error:
        raise failure(bucket, error) from None


def ask(where: str, call: Callable[[], T]) -> T:
    """What a request gives, asked again if only the network or the store's load was in the way.

    FileNotFoundError if there is no such object; StorageError says what else is wrong.
    """
    from obstore.exceptions import BaseError

    for turn in range(1, TRIES + 1):
        try:
            return aside(call)
        except FileNotFoundError:  # its own text may hold signed addresses, too
            raise FileNotFoundError(errno.ENOENT, "there is no such object", where) from None
        except (BaseError, ValueError) as error:
            if turn == TRIES or not passing(error):
                raise failure(where, error) from None
        rest(turn)
    raise AssertionError


def aside(call: Callable[[], T]) -> T:
    """What a call of the client gives; the main thread hears signals while it waits for it."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    given: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            given.put((True, call()))
        except BaseException as error:
            given.put((False, error))

    threading.Thread(target=answer, daemon=True).start()
    done, value = given.get()
    if not done:
        raise value
    return value


def rest(turn: int) -> None:
    """Waits a little, longer each turn, and never as long as the others who failed just now."""
    time.sleep(random.uniform(0.5, 1.0) * 2**turn * RETRY_SECONDS / 120)


def passing(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    status = _status(str(error))
    if status is None:
        final = isinstance(error, ValueError) or re.search(
            f"{MACHINE}|{ELSEWHERE}|{EMPTY_NAME}", str(error)
        )
        return not final
    return status in (408, 429) or (status >= 500 and status != 501)


def failure(where: str, error: Exception) -> StorageError:
    """An error of the client in our words; what it says itself may hold signed addresses."""
    text = str(error)
    status, known = _status(text), re.search(r"<Code>\s*([\w.]+)", text)
    code = f" {known[1]}" if known else ""
    if odd := re.search(r'Path "([^"]*)" contained empty', text):
        what = f"the key {odd[1]!r} has an empty folder name (//), which cannot be read"
        return StorageError("STORE_NAME", where, what, "rename it")
    if isinstance(error, ValueError):  # of the name alone
        return StorageError("STORE_NAME", where, "objects cannot have that name", "rename it")
    if re.search(MACHINE, text):
        what = "neither the environment nor this machine has credentials"
        return StoreAway("ACCESS_DENIED", where, what, "see docs/stores.md for where they go")
    if known and known[1] == SKEWED:
        what = f"the store says that this machine's clock is wrong ({status}{code})"
        return StoreAway("ACCESS_DENIED", where, what, "set the clock; the same command resumes")
    if known and known[1] in ARCHIVED:
        what = f"is archived: the store keeps it where it cannot be read ({status} {known[1]})"
        return StorageError("ARCHIVED", where, what, "restore it, then run again")
    if re.search(ELSEWHERE, text):
        what = "the bucket is in another region than the one that was asked"
        return StorageError("WRONG_REGION", where, what, "set AWS_REGION")
    if status in (401, 403) or (status == 400 and re.search(DENIED, text)):
        what = f"the store refuses these credentials ({status}{code})"
        return StoreAway("ACCESS_DENIED", where, what, "see docs/stores.md for where they go")
    if status == 404:
        what = f"there is no such bucket or container ({status}{code})"
        return StorageError("NO_BUCKET", where, what, "create it, or check the name")
    if status == 501:
        what = f"the store does not know conditional creation ({status}{code})"
        return StorageError("NO_CONDITION", where, what, "see docs/stores.md for such stores")
    if status is None or passing(error):
        causes = (said for pattern, said in CAUSES.items() if re.search(pattern, text))
        said = f"it answers {status}{code}" if status else next(causes, "the request failed")
        do = "the same command resumes when the store is well"
        return StoreAway("STORE_AWAY", where, said, do)
    what = f"the store answers {status}{code}"
    return StorageError("STORAGE", where, what, "see what that means for your store")


def _status(text: str) -> int | None:
    found = re.search(r"status code: (\d{3})", text)
    return int(found[1]) if found else None
