"""Ctrl-C once finishes the units that an encoder has begun, twice stops now; both resume."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from embedmill.pipeline.store.output import Store
from embedmill.schemas.errors import Interrupted
from embedmill.schemas.terminal import say

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interrupts:
    """While entered, SIGINT and SIGTERM create the run's stop object; a second one raises."""

    def __init__(self, store: Store, stop_name: str) -> None:
        self._store, self._stop_name = store, stop_name
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises Interrupted if a signal came, or if somebody else created the stop object."""
        if self._signal is not None or self._store.size(self._stop_name) is not None:
            raise self._error()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._signal is not None:
            raise self._error()
        self._signal = number
        say("finishing the units in flight; once more stops now")
        self._store.create(self._stop_name, b"stop")

    def _error(self) -> Interrupted:
        error = Interrupted("INTERRUPTED", "", "stopped by a signal", "the same command resumes")
        error.exit_code = CODES.get(self._signal or signal.SIGINT, 130)
        return error
