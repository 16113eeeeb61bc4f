"""Whose signals and stderr are whose: Ray takes none of ours, our processes do not hear them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM and leaves at once; ours finishes the units in flight.

    One that comes while Ray has it is told to ours, and raises SystemExit as Ray wants it.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        _give_back(before)
        signal.raise_signal(signal.SIGTERM)
        raise
    _give_back(before)


def _give_back(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def unheard(*numbers: signal.Signals) -> Iterator[None]:
    """Processes that are started inside never hear these signals; ours come when it is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def muted() -> Iterator[None]:
    """Silences Ray's C++ side while it starts; what goes wrong still comes as an exception."""
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
