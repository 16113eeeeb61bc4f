"""Freezes the ranges of int8 columns before a run begins: once for an output and a fingerprint.

A sample of the input, the same rows each time, is encoded here in fp32; the least and the greatest
value of each dimension are the range. The first driver to store it decides; every later run, and
every worker, reads what stands, so that a code means the same in every part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from embedmill.pipeline import flow
from embedmill.pipeline.load import load_encoder, load_tokenizer, on_this_machine
from embedmill.pipeline.parts.write import floats_in
from embedmill.pipeline.plan.plan import Planned
from embedmill.pipeline.snapshot.read import read_plan_head
from embedmill.pipeline.store.ipc import ipc_bytes
from embedmill.pipeline.store.output import Store
from embedmill.pipeline.vectors.ranges import range_name, range_table
from embedmill.schemas.errors import InputError, StorageError
from embedmill.schemas.plan import Plan, Shard, Slice, Unit, VectorColumn

SAMPLE_ROWS = 4096  # of the input; 400 values a dimension already meet most of a range
SAMPLE_PLACES = 64  # spread evenly, because a corpus is often sorted


def freeze_ranges(store: Store, planned: Planned) -> Planned:
    """The plan with the digests of its ranges, which are in the store from then on."""
    columns = {range_name(planned.plan, c): c for c in planned.plan.columns if c.kind == "int8"}
    before = _ranges_before(store, planned)
    missing = {name: c for name, c in columns.items() if store.size(name) is None}
    if not missing.keys().isdisjoint(before):
        raise _changed(store, next(name for name in missing if name in before), "is gone")
    if missing:
        for name, range_2D in _sampled(planned, missing).items():
            store.create(name, ipc_bytes(range_table(range_2D)))
    now = {name: store.sha256(name) for name in columns if store.size(name) is not None}
    for name, sha256 in now.items():
        if before.get(name, sha256) != sha256:
            raise _changed(store, name, "is not what the snapshot was made with")
    return replace(planned, plan=replace(planned.plan, ranges=now))


def _ranges_before(store: Store, planned: Planned) -> dict[str, str]:
    """The ranges of the last snapshot: what a part of this fingerprint must have as well."""
    if planned.base is None or planned.base.manifest.fingerprint != planned.plan.fingerprint:
        return {}
    head = read_plan_head(store, planned.base.manifest.plan)
    return Plan.from_json(head["plan"]).ranges


def _changed(store: Store, name: str, what: str) -> StorageError:
    do = "restore it from a copy, or run into a new output.path"
    return StorageError("RANGES_CHANGED", store.where(name), what, do)


def _sampled(planned: Planned, columns: dict[str, VectorColumn]) -> dict[str, np.ndarray]:
    """The range of each column over the sample, (2, D); none where the input has no vector."""
    wide = tuple(replace(column, dtype="float32") for column in columns.values())
    plan = on_this_machine(replace(planned.plan, columns=wide))
    shards = [found.shard for found in planned.listing.found]
    unit = Unit("", tuple(_spread(shards)))
    prepared = flow.prepare(plan, unit, load_tokenizer(plan))
    table = flow.encode(plan, load_encoder(plan), prepared).table.combine_chunks()
    if len(table):
        ranges = [_extent(table.column(column.name).chunk(0), column.dim) for column in wide]
        return dict(zip(columns, ranges, strict=True))
    if unit.rows == sum(shard.rows for shard in shards):
        return {}  # nothing to encode, nothing to quantize
    what = f"none of {unit.rows} sampled rows has a vector, so int8 columns have no range"
    raise InputError("RANGES_UNKNOWN", str(planned.plan.input["path"]), what, "see why with `plan`")


def _extent(column: pa.Array, dim: int) -> np.ndarray:
    """The least and the greatest value of each dimension: (2, D)."""
    (flat,) = floats_in(column)
    vectors_RD = flat.reshape(-1, dim)
    return np.stack([vectors_RD.min(axis=0), vectors_RD.max(axis=0)])


def _spread(shards: list[Shard]) -> Iterator[Slice]:
    """All rows of a small input; else runs of rows at evenly spaced places, in order."""
    total = sum(shard.rows for shard in shards)
    rows = SAMPLE_ROWS // SAMPLE_PLACES
    starts = range(0, total, max(rows, total // SAMPLE_PLACES))
    first = 0
    for shard in shards:
        if total <= SAMPLE_ROWS:
            yield Slice(shard, 0, shard.rows)
        else:
            for start in starts:
                if first <= start < first + shard.rows:
                    yield Slice(shard, start - first, min(rows, first + shard.rows - start))
        first += shard.rows
