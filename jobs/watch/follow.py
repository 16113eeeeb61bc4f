"""`status --follow`: a run's events as they reach the storage, from any machine that sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.terminal import say

EVERY_SECONDS = 2.0
SILENCE_SECONDS = 300.0  # without a word: said, because a killed run leaves no end


def follow(output: str, sleep: Callable[[float], Any] = time.sleep) -> Iterator[dict[str, Any]]:
    """Yields {run_id, time, event, …} of the newest run until it ends; first waits for one.

    A run that has ended before the first look is not followed, nor one that a later run outlived:
    it was killed, or does what is done.
    """
    store = open_store(output)
    over = {run for run in _runs(store) if _ended(store, run)}
    told = False
    newest_over = max(over, default="")
    while not (open_runs := sorted(run for run in _runs(store) - over if run > newest_over)):
        if not told:
            say("no run is going on; waiting for one")
        told = True
        sleep(EVERY_SECONDS)
    run, number, silent = open_runs[-1], 0, 0.0
    while True:
        name = f"_embed/log/{run}/{number:06d}.jsonl"
        if store.size(name) is None:
            newest = max(_runs(store) - over)
            if newest > run and silent:
                run, number = newest, 0  # the one before it was left without an end
                continue
            sleep(EVERY_SECONDS)
            silent += EVERY_SECONDS
            if silent % SILENCE_SECONDS < EVERY_SECONDS:
                yield {"run_id": run, "time": None, "event": "silent", "seconds": round(silent)}
            continue
        number, silent = number + 1, 0.0
        for event in _events(store, name):
            yield {"run_id": run, **event}
            if event["event"] == "end":
                return


class Teller:
    """Events as lines for people; remembers how much the run began with."""

    def __init__(self) -> None:
        self._rows = 0
        self._last: dict[str, Any] = {"rows": 0, "tokens": 0, "time": None}

    def line(self, event: dict[str, Any]) -> str:
        """One event as one line."""
        run, kind = event["run_id"], event["event"]
        if kind == "start":
            self._rows = event.get("rows", 0)
            self._last = {"rows": 0, "tokens": 0, "time": event["time"]}
            return f"run {run}: {self._rows:,} rows in {event.get('units', 0):,} units to encode"
        if kind == "end":
            why = f" ({event['error']})" if event.get("error") else ""
            return f"run {run}: ended with exit code {event.get('exit_code')}{why}"
        if kind == "silent":
            return f"run {run}: no word for {event['seconds'] // 60} min; was it killed?"
        rows = event.get("rows", 0)
        share = f" ({100 * rows // self._rows} %)" if self._rows else ""
        return f"run {run}: {rows:,} of {self._rows:,} rows{share}{self._speed(event)}"

    def _speed(self, event: dict[str, Any]) -> str:
        """Tokens a second since the last line, and the time left at that speed."""
        from datetime import datetime

        before, self._last = self._last, event
        try:
            then, now = (datetime.fromisoformat(e["time"]) for e in (before, event))
            seconds = (now - then).total_seconds()
            rows, tokens = (event[key] - before.get(key, 0) for key in ("rows", "tokens"))
        except (KeyError, TypeError, ValueError):
            return ""
        if seconds <= 0 or rows <= 0:
            return ""
        left = (self._rows - event["rows"]) * seconds / rows
        return f", {tokens / seconds:,.0f} tokens/s, {left:,.0f} s left"


def _runs(store: Store) -> set[str]:
    """Ids of all runs that left a log."""
    names = (name.split("/") for name in store.list("_embed/log") if name.endswith(".jsonl"))
    return {parts[-2] for parts in names}


def _ended(store: Store, run: str) -> bool:
    """Whether the last object of the log has the end."""
    names = [name for name in store.list(f"_embed/log/{run}") if name.endswith(".jsonl")]
    return any(event["event"] == "end" for event in _events(store, names[-1]))


def _events(store: Store, name: str) -> Iterator[dict[str, Any]]:
    """The events of one object; lines that are none are passed over."""
    for line in store.read(name).splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield {"time": None, **event}
