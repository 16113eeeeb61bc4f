"""What is committed and what is running, read from storage alone.

A run is seen by the events it leaves in the output; whether its process still lives cannot be
told from there, so the time of its last event is given and not a verdict.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import pyarrow as pa

from embedmill.pipeline.snapshot.read import Snapshot, generation_of, latest, open_units, table
from embedmill.pipeline.store.output import Store, each, open_store
from embedmill.schemas.columns import SLICE
from embedmill.schemas.errors import ConflictError
from embedmill.schemas.manifest import manifest_name, part_name
from embedmill.schemas.plan import Plan

EVENTS = ("start", "progress", "end")


def status(output: str, *, files: bool = False) -> dict[str, Any]:
    """The newest snapshot, the open plans with what is done of them, and runs without an end.

    `files`: also the URIs of the snapshot's parts. ConflictError if the folder is not an output.
    """
    store = open_store(output)
    snapshot = latest(store)
    generation = snapshot.manifest.generation + 1 if snapshot else 1
    plans = [_progress(store, *opened) for opened in open_units(store, generation)]
    runs = _runs(store)
    if snapshot is None and not plans and not any(store.list("_embed/log")):
        raise ConflictError("NO_OUTPUT", store.uri, "is not an output of ours", "check the path")
    found: dict[str, Any] = {
        "output": store.uri,
        "snapshot": _snapshot(snapshot) if snapshot else None,
        "plans": plans,
        "runs": runs,
    }
    if files:
        paths = table(store, snapshot.manifest).column("path").to_pylist() if snapshot else []
        found["files"] = [store.where(path) for path in paths]
    return found


def status_text(found: dict[str, Any]) -> str:
    """The status for people; only the parts, one a line, where they were asked for."""
    if "files" in found:
        return "\n".join(found["files"])
    lines = [found["output"], *_snapshot_lines(found["snapshot"])]
    for plan in found["plans"]:
        share = 100 * plan["rows_done"] // max(plan["rows"], 1)
        lines.append(
            f"open plan {plan['plan']}: {plan['units_done']:,} of {plan['units']:,} units, "
            f"{plan['rows_done']:,} of {plan['rows']:,} rows ({share} %); run again to resume"
        )
    for run in found["runs"]:
        last = run["last"]
        more = ", ".join(f"{k} {v}" for k, v in last.items() if k not in ("time", "event"))
        what = " ".join(str(part) for part in (last["event"], last["time"], more) if part)
        lines.append(f"run {run['run_id']}: has no end; last {what}{_ago(last['time'])}")
    return "\n".join(lines)


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    return {
        "generation": manifest.generation,
        "manifest": manifest_name(manifest.generation).rpartition("/")[2],
        "rows": manifest.rows_out,
        "parts": manifest.parts,
        "rejects": manifest.rejects,
        "rows_in": manifest.rows_in,
        "rows_cut": manifest.rows_cut,
        "quarantined": manifest.num_quarantined,
        "fingerprint": manifest.fingerprint,
        "model": manifest.model,
        "precision": manifest.identity.get("precision"),
        "columns": manifest.columns,
    }


def _snapshot_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["no snapshot yet"]
    rejects = ", ".join(f"{count:,} {code}" for code, count in found["rejects"].items())
    lines = [
        f"snapshot {found['generation']}: {found['rows']:,} rows in {found['parts']:,} parts, "
        f"rejects: {rejects or 'none'}, cut: {found['rows_cut']:,}",
        f"model {found['model'].get('name')}, {found['precision']}, "
        f"fingerprint {found['fingerprint'][:12]}",
    ]
    if found["quarantined"]:
        lines.append(f"{found['quarantined']:,} unreadable shards are left out")
    for c in found["columns"]:
        unit = ", norm 1" if c["normalize"] else ""
        kind = f"{c['source']} {c['pooling']}, {c['dtype']} {c['dim']}{unit}"
        lines.append(f"column {c['name']}: {kind}")
    return lines


def _progress(store: Store, name: str, plan: Plan, units: pa.Table) -> dict[str, Any]:
    """One open plan; a unit is done when its part is there."""
    pieces = units.column("slices").combine_chunks()
    rows = pieces.flatten().field(SLICE.names.index("rows")).to_pylist()
    lengths = pieces.value_lengths().to_pylist()
    keys = units.column("unit_key").to_pylist()
    parts = [part_name(plan.fingerprint, key, plan.generation) for key in keys]
    done = total = units_done = first = 0
    for size, length in zip(each(store, store.size, parts), lengths, strict=True):
        unit_rows = sum(rows[first : first + length])
        first += length
        total += unit_rows
        if size is not None:
            done += unit_rows
            units_done += 1
    return {
        "plan": name,
        "generation": plan.generation,
        "fingerprint": plan.fingerprint,
        "units": len(units),
        "units_done": units_done,
        "rows": total,
        "rows_done": done,
    }


def _runs(store: Store) -> list[dict[str, Any]]:
    """Runs that have events and no end, by id, each with its last event."""
    names = [name for name in store.list("_embed/log") if name.endswith(".jsonl")]
    runs = []
    for folder, group in groupby(names, lambda name: name.rpartition("/")[0]):
        last = None
        # The newest object first: an end is in the last one, and long runs have many.
        for name in sorted(group, key=generation_of, reverse=True):
            events = events_of(store, name)
            if any(event["event"] == "end" for event in events):
                break
            last = last or (events[-1] if events else None)
        else:
            if last:
                run = {"run_id": folder.rpartition("/")[2], "last": last}
                runs.append({**run, "stopping": store.size(f"{folder}/stop") is not None})
    return runs


def events_of(store: Store, name: str) -> list[dict[str, Any]]:
    """The events of one object; lines that are none are passed over."""
    try:
        lines = store.read(name).splitlines()
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") in EVENTS:
            events.append({"time": None, **event})
    return events


def _ago(time: Any) -> str:
    """How long ago a time was, in words; nothing if it is not one."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    except (TypeError, ValueError):
        return ""
    amount, unit = (seconds / 3600, "h") if seconds >= 7200 else (seconds / 60, "min")
    return f", {amount:.0f} {unit} ago" if seconds >= 120 else f", {max(seconds, 0):.0f} s ago"
