"""SIGINT and SIGTERM for a command that follows what runs elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Signalled(Exception):
    """SIGINT or SIGTERM came."""


class Signals:
    """SIGINT and SIGTERM while entered: kept, and the task that follows is woken.

    An exception from a signal handler breaks whatever Python is in the middle of, the building of
    an event loop too; so they raise only where a request may have to be given up.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self.task: asyncio.Task[Any] | None = None
        self._raise = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._take) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """In here a signal raises Signalled."""
        self._raise = True
        try:
            yield
        finally:
            self._raise = False

    def _take(self, number: int, _: Any) -> None:
        self.came.append(number)
        if self._raise:
            raise Signalled
        if self.task is not None and not self.task.done():
            self.task.get_loop().call_soon_threadsafe(self.task.cancel)
