"""How a command ends that cannot do what it was asked: one line, and an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from threading import current_thread, main_thread
from typing import Any

from embedmill.schemas.errors import EmbedmillError, Interrupted, SpecError, StorageError
from embedmill.schemas.terminal import visible


class Listened:
    """stdout or stderr, whose listener may leave: a run is not to die of that."""

    def __init__(self, stream: Any, lost: type[OSError]) -> None:
        """`lost`: the errors after which nobody listens."""
        self._stream, self._lost = stream, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream does, or nowhere."""
        return self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        """As the stream does, or nowhere."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except self._lost:
            self._leave()
            return act()

    def settle(self) -> None:
        """Drops what the stream does not take: at the exit it would fail once more, with 120."""
        try:
            self._stream.flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def listened() -> Iterator[None]:
    """While entered, stdout and stderr may be closed, or their readers go, without an error."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stdout = out = Listened(sys.stdout or nowhere, BrokenPipeError)
        sys.stderr = Listened(sys.stderr or nowhere, OSError)  # words: a full disk may have them
        try:
            yield
        finally:
            out.settle()
            sys.stdout, sys.stderr = before


def fail(error: EmbedmillError, as_json: bool) -> None:
    """Says what went wrong and ends the process with the error's exit code."""
    if isinstance(error, Interrupted) and current_thread() is main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):  # one more must not change how it ends
            signal.signal(number, signal.SIG_IGN)
    line = str(error)
    if not isinstance(error, SpecError):  # that one has a line for every problem
        line = "embedmill: " + visible(line)
    facts = {"error": str(error), "code": error.code, "exit_code": error.exit_code}
    print(visible(line, keep="\n"), file=sys.stderr, flush=True)
    if as_json:
        with contextlib.suppress(OSError):  # a full disk has taken the line above
            print(json.dumps(facts), flush=True)
    sys.exit(error.exit_code)


def storage_error(error: OSError) -> EmbedmillError:
    """An error of the system as one of ours."""
    where = str(error.filename or "")
    return StorageError(
        "STORAGE", where, (error.strerror or str(error)).lower(), "run again when it is mended"
    )
