"""The runs of an output, newest first, from what they left in its storage."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from embedmill.jobs.watch.status import events_of
from embedmill.pipeline.snapshot.read import generation_of
from embedmill.pipeline.store.output import Store
from embedmill.schemas.report import RunReport

RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class PastRun:
    """One execution of a spec, as far as it told."""

    run_id: str
    exit_code: int | None  # None: it has no end, so it is going on or was killed
    what: str = ""  # the error that ended it
    last: str = ""  # when it was last heard of, ISO
    rows: int = 0  # of its input that it has been through, where it has no report
    report: RunReport | None = None  # None unless it came to its end

    @property
    def began(self) -> datetime:
        """When it began, UTC."""
        return datetime.strptime(self.run_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def past_runs(store: Store, most: int) -> list[PastRun]:
    """The newest runs, with or without an end; at most `most` of them are read."""
    logs: dict[str, list[str]] = defaultdict(list)
    for name in store.list("_embed/log"):
        logs[name.split("/")[2]].append(name)
    for name in store.list("_embed/report"):
        logs[name.rpartition("/")[2].removesuffix(".json")] += []
    newest = sorted(filter(RUN_ID.fullmatch, logs), reverse=True)[:most]
    return [_past_run(store, run_id, logs[run_id]) for run_id in newest]


def _past_run(store: Store, run_id: str, names: list[str]) -> PastRun:
    objects = sorted((n for n in names if n.endswith(".jsonl")), key=generation_of, reverse=True)
    # The last two have its end and what it last told; a long run has thousands.
    recent = [event for name in objects[:2] for event in reversed(events_of(store, name))]
    end: dict[str, Any] = next((e for e in recent if e["event"] == "end"), {})
    progress: dict[str, Any] = next((e for e in recent if e["event"] == "progress"), {})
    report = _report(store, run_id)
    return PastRun(
        run_id=run_id,
        exit_code=report.exit_code if report else end.get("exit_code"),
        what=str(end.get("what") or end.get("error") or ""),
        last=str(recent[0]["time"] or "") if recent else "",
        rows=progress.get("rows", 0),
        report=report,
    )


def _report(store: Store, run_id: str) -> RunReport | None:
    """The run's report; None if there is none that can be read."""
    try:
        return RunReport.from_json(json.loads(store.read(f"_embed/report/{run_id}.json")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
