"""How long a test waits before it gives up. Each limit ends a hang; none judges speed.

They are ten times what a quiet machine needs and more. EMBEDMILL_TEST_PATIENCE=3 makes all of them
three times as long, for a machine that is very slow or very busy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = float(os.environ.get("EMBEDMILL_TEST_PATIENCE", "1"))
SOON = 300 * PATIENCE  # for what takes seconds: a server answers, a process ends, an event comes
LONG = 1500 * PATIENCE  # for a whole command: run, submit
HANG = 3000 * PATIENCE  # for a test: pytest's own limit, set by conftest.py


def wait_until(ask: Callable[[], T], what: str, seconds: float = SOON) -> T:
    """The first answer that is true; `what`: what was waited for."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not in {seconds:,.0f} s")
        time.sleep(0.02)
    return answer
