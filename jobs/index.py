"""`index`: every sink of the spec is made equal to the newest snapshot, and checked.

what it has -> what differs -> removed and added -> index -> checked -> published

Where the sink holds another encoding or other columns, or where most of it would change, a new load
is made beside what searchers see and takes its place; else only what differs is touched. Both ways
are one: the keys of what is there are compared with those of the snapshot, so a load that was
killed goes on where it was, and a load of what is there already does nothing.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from embedmill.jobs.process.ending import storage_error
from embedmill.jobs.watch.index_report import REPORTS
from embedmill.pipeline.index.changes import NONE_GONE, PARTITION, Changes, changes
from embedmill.pipeline.index.check import Checked, check
from embedmill.pipeline.index.open import absolute, open_sink, place_of, shape_of
from embedmill.pipeline.index.records import ahead, all_records, keys_of, records, side_by_side
from embedmill.pipeline.index.sink import Loaded, Sink
from embedmill.pipeline.run.log import new_run_id
from embedmill.pipeline.snapshot.read import Snapshot, read_plan, required, table
from embedmill.pipeline.store.output import Store, open_store
from embedmill.pipeline.vectors.ranges import ranges_of
from embedmill.schemas.errors import EmbedmillError, QualityError, SpecError, StorageError
from embedmill.schemas.plan import Plan
from embedmill.schemas.sinks import Index
from embedmill.schemas.spec import Spec
from embedmill.schemas.terminal import say


def index(spec: Spec) -> dict[str, Any]:
    """Loads the newest snapshot into every sink of the spec: {output, snapshot, sinks: [...]}.

    A sink that fails does not keep the others from being loaded; then the first error is raised.
    """
    if not spec.index:
        raise SpecError("INDEX", "", "index: the spec names no sink; add some under index")
    store = open_store(spec.output.path)
    snapshot = required(store)
    plan, _ = read_plan(store, snapshot.manifest.plan)
    found, first_error = [], None
    for entry in spec.index:
        load = _Load(store, snapshot, plan, absolute(entry))
        try:
            load.run()
        except (EmbedmillError, OSError) as raised:
            error = raised if isinstance(raised, EmbedmillError) else storage_error(raised)
            first_error = first_error or error
            load.facts |= {"error": str(error), "exit_code": error.exit_code}
            if error is not first_error:
                say(f"{error}")
        found.append(load.facts)
    report = {"output": store.uri, "snapshot": snapshot.manifest.generation, "sinks": found}
    data = json.dumps(report, indent=1, ensure_ascii=False).encode()
    store.create(f"{REPORTS}/{new_run_id()}.json", data)
    if first_error is not None:
        raise first_error
    return report


class _Load:
    """One sink, and what is told of it."""

    def __init__(self, store: Store, snapshot: Snapshot, plan: Plan, entry: Index) -> None:
        self.store, self.snapshot, self.plan, self.entry = store, snapshot, plan, entry
        parts = table(store, snapshot.manifest)
        self.paths: list[str] = parts.column("path").to_pylist()
        self.sizes: list[int] = parts.column("vectors").to_pylist()
        self.facts: dict[str, Any] = {
            "name": entry.called, "sink": entry.sink, "place": place_of(entry),
            "spec": entry.model_dump(),
        }  # fmt: skip

    def run(self) -> None:
        """Makes the sink equal to the snapshot."""
        began = time.monotonic()
        manifest = self.snapshot.manifest
        shape = shape_of(self.entry, self.plan, manifest.vectors)
        self.facts |= {"column": shape.column.name, "metric": shape.metric, "type": shape.type}
        sink = open_sink(self.entry, shape, self.plan)
        try:
            self._load(sink)
        finally:
            sink.close()
        self.facts |= {"warnings": sink.warnings, "seconds": round(time.monotonic() - began, 3)}

    def _load(self, sink: Sink) -> None:
        loaded, snapshot = sink.loaded(), self.snapshot
        same = loaded is not None and loaded.shape == sink.shape.digest
        todo, beside = None, not same
        if same:
            sink.begin(False, snapshot.sha256)
            if loaded.manifest == snapshot.sha256 and sink.count() == loaded.records:
                unchanged = {"unchanged": True, "records": loaded.records, "added": 0, "removed": 0}
                self.facts |= unchanged
                return
            todo = _changes(sink, self.store, self.paths, sum(self.sizes))
            beside = 2 * (todo.come + len(todo.gone)) > todo.records
        if beside:
            sink.begin(True, snapshot.sha256)
            todo = fill(sink, self.store, self.paths, self.sizes)
            sink.build()
        elif todo.come or len(todo.gone):
            _apply(sink, self.store, self.paths, todo)
            sink.build()
        self._judge(sink, todo)
        self.facts |= {
            "unchanged": False, "beside": beside, "records": todo.records, "added": todo.come,
            "removed": len(todo.gone), "repeated": todo.repeated,
        }  # fmt: skip
        sink.publish(
            Loaded(
                shape=sink.shape.digest,
                fingerprint=sink.shape.fingerprint,
                column=sink.shape.column.name,
                metric=sink.shape.metric,
                type=sink.shape.type,
                generation=snapshot.manifest.generation,
                manifest=snapshot.sha256,
                records=todo.records,
            )
        )

    def _judge(self, sink: Sink, todo: Changes) -> None:
        """Counts, a sample read back, recall; an error takes back what was begun."""
        try:
            count = sink.count()
            if count != todo.records:
                what = f"has {count:,} records, the snapshot {todo.records:,}"
                raise StorageError("SINK_DIFFERS", place_of(self.entry), what, "index again")
            range_2D = ranges_of(self.plan).get(sink.shape.column.name)
            seen = check(sink, self.store, self.paths, todo.stands, range_2D)
            self.facts |= {"sampled": seen.sampled, "recall": round(seen.recall, 6)}
            self._refuse(seen)
        except EmbedmillError:
            sink.refuse()
            raise

    def _refuse(self, seen: Checked) -> None:
        place = place_of(self.entry)
        if seen.wrong:
            what = f"{len(seen.wrong)} of {seen.sampled} records differ: {seen.wrong[0]}"
            raise StorageError("SINK_DIFFERS", place, what, "index again")
        if seen.recall < self.entry.min_recall:
            what = f"recall@10 is {seen.recall:.4f}, min_recall is {self.entry.min_recall}"
            do = "choose another type (flat is exact), or lower min_recall"
            raise QualityError("RECALL", place, what, do)


def fill(sink: Sink, store: Store, paths: list[str], sizes: list[int]) -> Changes:
    """Makes the load that was begun beside equal to the parts, of so many rows each.

    What is empty, and not too large for that, takes all records in one pass; else what is there
    is compared first.
    """
    rows = sum(sizes)
    if rows > PARTITION or sink.count():
        todo = _changes(sink, store, paths, rows)
        _apply(sink, store, paths, todo)
        return todo
    stands = [np.ones(size, bool) for size in sizes]
    sink.change(NONE_GONE, ahead(all_records(store, paths, sink.shape, stands)))
    count = sum(int(stands_R.sum()) for stands_R in stands)
    return Changes(NONE_GONE, stands, stands, count, rows - count)


def _changes(sink: Sink, store: Store, paths: list[str], rows: int) -> Changes:
    there = side_by_side(lambda path: keys_of(store, path, sink.shape), paths)
    return changes(sink.keys(), there, rows)


def _apply(sink: Sink, store: Store, paths: list[str], todo: Changes) -> None:
    if todo.come or len(todo.gone):
        sink.change(todo.gone, ahead(records(store, paths, sink.shape, todo.wanted)))
