"""What the page tells, read from the output alone; the parts are sampled, never read whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from embedmill.jobs.page.sample import Sample, draw_sample, shown
from embedmill.jobs.watch.history import PastRun, past_runs
from embedmill.jobs.watch.index_report import newest
from embedmill.pipeline.snapshot.gates import measure
from embedmill.pipeline.snapshot.read import latest, read_plan, table
from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.columns import REASONS, Status
from embedmill.schemas.errors import ConflictError, StorageError
from embedmill.schemas.manifest import PART_TABLE, Manifest
from embedmill.schemas.plan import Plan
from embedmill.schemas.report import RunReport

MOST_RUNS = 30
MOST_STRETCHES = 120  # of the corpus, for curves along it
EXAMPLES, MOST_REJECT_FILES = 5, 50


@dataclass(frozen=True, slots=True)
class Rejected:
    """The rows that one code kept from having a vector."""

    code: str
    why: str
    rows: int
    examples: list[str]  # their ids, or where they stand if they have none


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the page tells."""

    output: str
    made: datetime
    runs: list[PastRun]  # newest first
    manifest: Manifest | None = None  # the newest snapshot
    plan: Plan | None = None  # that made it
    figures: dict[str, float] = field(default_factory=dict)  # of the quality gates
    stretches: dict[str, np.ndarray] = field(default_factory=dict)  # sums over parts in a row
    rejected: list[Rejected] = field(default_factory=list)
    sample: Sample | None = None
    sinks: list[dict[str, Any]] = field(default_factory=list)  # what `index` last said of each
    trouble: str = ""  # why the snapshot could not be read whole

    @property
    def report(self) -> RunReport | None:
        """The report of the newest run that came to its end; None if none did."""
        return next((run.report for run in self.runs if run.report), None)


def read_facts(output: str) -> Facts:
    """Reads an output; ConflictError if the folder is not one."""
    store = open_store(output)
    runs = past_runs(store, MOST_RUNS)
    try:
        known = _snapshot(store)
    except StorageError as error:  # the page still says how the runs went, and this
        known = {"trouble": str(error)}
    if not runs and not known:
        raise ConflictError("NO_OUTPUT", store.uri, "is not an output of ours", "check the path")
    return Facts(store.uri, datetime.now(UTC), runs, sinks=newest(store), **known)


def _snapshot(store: Store) -> dict[str, Any]:
    snapshot = latest(store)
    if snapshot is None:
        return {}
    manifest = snapshot.manifest
    plan, _ = read_plan(store, manifest.plan)
    parts = table(store, manifest)
    return {
        "manifest": manifest,
        "plan": plan,
        "figures": measure(parts, []),
        "stretches": _stretches(parts),
        "rejected": list(_rejected(store, manifest, parts)),
        "sample": draw_sample(store, plan, parts),
    }


def _stretches(parts: pa.Table) -> dict[str, np.ndarray]:
    """Sums over up to MOST_STRETCHES runs of parts, in the order of the input."""
    borders = np.linspace(0, len(parts), min(len(parts), MOST_STRETCHES) + 1).astype(int)[:-1]
    names = [f.name for f in PART_TABLE if pa.types.is_primitive(f.type)]
    columns = {name: np.array(parts.column(name).to_pylist(), np.float64) for name in names}
    return {
        name: np.add.reduceat(column, borders) if len(borders) else column
        for name, column in columns.items()
    }


def _rejected(store: Store, manifest: Manifest, parts: pa.Table) -> Iterator[Rejected]:
    """Rejects by code, most first, with a few ids each; texts are not in the rejects at all."""
    wanted = {code: min(rows, EXAMPLES) for code, rows in manifest.rejects.items()}
    examples: dict[str, list[str]] = {code: [] for code in wanted}
    paths = [path for path in parts.column("rejects_path").to_pylist() if path]
    for path in paths[:: max(1, len(paths) // MOST_REJECT_FILES)][:MOST_REJECT_FILES]:
        if all(len(examples[code]) >= count for code, count in wanted.items()):
            break
        for row in pa.ipc.open_file(pa.py_buffer(store.read(path))).read_all().to_pylist():
            found = examples.get(row["code"])
            if found is not None and len(found) < EXAMPLES:
                where = f"row {row['row']:,} of {row['shard']}"
                found.append(shown(where if row["id"] is None else row["id"]))
    for code, rows in Counter(manifest.rejects).most_common():
        why = REASONS[Status[code]] if code in Status.__members__ else ""
        yield Rejected(code, why, rows, examples[code])
