"""Shows how far a run is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from embedmill.pipeline.run.receipt import Receipt
from embedmill.schemas.terminal import say

EVERY_SECONDS = 10.0


class Progress:
    """Rows, tokens per second and the time left, on stderr."""

    def __init__(self, rows: int) -> None:
        self.rows, self.done, self.tokens = rows, 0, 0
        self.began = self.said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self.rows and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.rows, unit=" rows", dynamic_ncols=True, smoothing=0.1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, receipt: Receipt) -> None:
        """Counts a committed unit."""
        self.done += receipt.record.rows_in
        self.tokens += receipt.tokens
        now = time.monotonic()
        rate = self.tokens / (now - self.began)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            self._bar.update(receipt.record.rows_in)
        elif now - self.said >= EVERY_SECONDS or self.done == self.rows:
            left = (now - self.began) * (self.rows - self.done) / max(1, self.done)
            rows = f"{self.done:,} of {self.rows:,} rows"
            say(f"{rows}, {rate:,.0f} tokens/s, {left:,.0f} s left", prefix="")
            self.said = now
