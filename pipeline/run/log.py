"""The events of a run, as immutable objects in the output, so that anyone can see it from afar."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import time
from typing import Any

from embedmill.pipeline.store.output import Store

EVERY_SECONDS = 10.0
RUN_ID = "EMBEDMILL_RUN_ID"  # set for a submitted job, whose run has the id of the job


def new_run_id() -> str:
    """The time, its microseconds and four random digits in hex: ids sort by when runs began."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{now.microsecond:05x}{secrets.token_hex(2)}"


class RunLog:
    """Collects events and writes them as `_embed/log/RUNID/NNNNNN.jsonl`, one object a flush."""

    def __init__(self, store: Store, commits: str) -> None:
        """`commits`: what the store's probe said."""
        self.run_id = os.environ.get(RUN_ID) or new_run_id()
        self.commits = commits
        self._folder = f"_embed/log/{self.run_id}"
        self._store, self._lines, self._number, self._flushed = store, [], 0, time.monotonic()

    @property
    def stop_name(self) -> str:
        """The object that, once there, keeps the run from beginning another unit."""
        return f"{self._folder}/stop"

    def event(self, event: str, **fields: Any) -> None:
        """Notes an event; written at once if it begins or ends the run, else now and then."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._lines.append(json.dumps({"time": now, "event": event, **fields}))
        due = time.monotonic() - self._flushed >= EVERY_SECONDS
        if due or event != "progress":
            data = "\n".join(self._lines).encode() + b"\n"
            while not self._store.create(f"{self._folder}/{self._number:06d}.jsonl", data):
                self._number += 1  # an earlier flush came through, and its answer did not
            self._lines, self._number, self._flushed = [], self._number + 1, time.monotonic()
