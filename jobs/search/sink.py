"""Search in a sink that `index` has loaded, with the model of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from embedmill.jobs.watch.index_report import reports
from embedmill.pipeline.index.filters import conditions
from embedmill.pipeline.index.open import open_sink, place_of, shape_of
from embedmill.pipeline.index.sink import Loaded
from embedmill.pipeline.snapshot.read import required
from embedmill.pipeline.store.output import Store
from embedmill.schemas.errors import ConflictError, SpecError
from embedmill.schemas.plan import Plan, VectorColumn
from embedmill.schemas.sinks import Index
from embedmill.schemas.terminal import say


def search_sink(
    store: Store, plan: Plan, name: str, column: str | None, where: Sequence[str], k: int,
    vector: Callable[[Plan, VectorColumn], np.ndarray],
) -> dict[str, Any]:  # fmt: skip
    """The k nearest records of a sink: {sink, column, hits}; `vector` makes the query's."""
    entry = _entry(store, name)
    shape = shape_of(entry, plan, 0)
    sink = open_sink(entry, shape, plan)
    try:
        loaded = _current(sink.loaded(), entry, plan, shape.column.name)
        shape = sink.shape = replace(shape, type=loaded.type, metric=loaded.metric)
        if column not in (None, loaded.column):
            what = f"search: the sink {name!r} has the column {loaded.column!r} alone"
            raise SpecError("COLUMN", "", what)
        newest = required(store)
        if loaded.manifest != newest.sha256:
            other = loaded.generation != newest.manifest.generation
            said = f"the output {newest.manifest.generation}" if other else "of another output"
            said = f"{name} has snapshot {loaded.generation}, {said}: run index"
            say(f"{said}")
        wanted = conditions(where, shape.carried)
        names = [field.name for field in shape.carried]
        found = sink.nearest(vector(plan, shape.column), k, wanted, names)
    finally:
        sink.close()
    hits = [as_hit(plan.id_column, one.score, one.row) for one in found]
    return {"sink": name, "column": loaded.column, "hits": hits}


def as_hit(id_column: str, score: float, row: dict[str, Any]) -> dict[str, Any]:
    """A hit as `search` gives it: id, score, then what else the row carries."""
    kept = dict(row)
    hit = {"id": kept.pop(id_column), "score": score}
    # A kept column may be called "id" or "score" itself.
    return hit | {f"{name}_" if name in hit else name: value for name, value in kept.items()}


def _entry(store: Store, name: str) -> Index:
    """The sink of that name as it was last loaded."""
    known: set[str] = set()
    why = "was loaded"
    for sink in reports(store):
        if "error" in sink:
            why = "was loaded, its last load failed" if sink["name"] == name else why
        elif sink["name"] == name:
            return Index.model_validate(sink["spec"])
        else:
            known.add(sink["name"])
    there = ", ".join(sorted(known)) or "none; run embedmill index SPEC"
    raise SpecError("SINK", "", f"search: no sink {name!r} {why}; there are: {there}")


def _current(loaded: Loaded | None, entry: Index, plan: Plan, column: str) -> Loaded:
    """What the sink has, if it is of the output's encoding and of the column."""
    place, do = place_of(entry), "run embedmill index SPEC"
    if loaded is None:
        raise ConflictError("NOT_LOADED", place, "nothing is published there", do)
    if loaded.fingerprint != plan.fingerprint:
        what = "has vectors of another encoding than the output"
        raise ConflictError("OTHER_FINGERPRINT", place, what, do)
    if loaded.column != column:
        what = f"has the column {loaded.column!r} by now, not {column!r}"
        raise ConflictError("OTHER_COLUMN", place, what, do)
    return loaded
