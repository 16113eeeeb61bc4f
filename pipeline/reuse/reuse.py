"""Takes over vectors that the last snapshot has: a row whose input it knows needs no encoder.

Which inputs it knows, an index tells that is made once for a plan (hashes.py). Rows are read from
its parts with their checksums and believed only if their own input hash is the one asked for. What
is gone or unreadable is encoded: a part's bytes are the same either way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.pipeline.batches import Reused
from embedmill.pipeline.identity import canonical, digest
from embedmill.pipeline.parts.footer import read_footer
from embedmill.pipeline.plan.plan import Planned
from embedmill.pipeline.reuse.sorted_index import as_halves, entries_of, find, write_index
from embedmill.pipeline.snapshot.read import REUSE
from embedmill.pipeline.store.output import Store
from embedmill.schemas.columns import WINDOW_FIELDS, vector_type
from embedmill.schemas.plan import Plan

BATCH_ROWS = 2048


def freeze_index(store: Store, planned: Planned) -> Planned:
    """The plan with the name of an index over the last snapshot, which is there from then on."""
    plan, base = planned.plan, planned.base
    if not can_reuse(planned):
        return planned
    parts = planned.parts.column("path").to_pylist()
    head: dict[str, Any] = {"parts": parts, "columns": [c["name"] for c in base.manifest.columns]}
    stem = f"{REUSE}/{plan.generation:06d}-{digest(head)[:16]}"
    if store.size(f"{stem}.json") is None:
        entries = entries_of(store, parts, has_windows(plan))
        head["segments"] = write_index(store, stem, entries, base.manifest.rows_out)
        store.create(f"{stem}.json", canonical(head))
    return replace(planned, plan=replace(plan, reuse=f"{stem}.json"))


def can_reuse(planned: Planned) -> bool:
    """Whether there is something to encode, and vectors of the same encoding."""
    base = planned.base
    same = base is not None and base.manifest.fingerprint == planned.plan.fingerprint
    return same and base.manifest.rows_out > 0 and any(unit.rows for unit in planned.units)


def has_windows(plan: Plan) -> bool:
    """Whether parts have a row a window."""
    return plan.identity["long_text"] == "window"


def reuse(store: Store, plan: Plan, hash_I: pa.Array) -> Reused:
    """What the last snapshot has of the inputs with these hashes: all windows of one, or none."""
    head = _head(store, plan.reuse) if plan.reuse and len(hash_I) else None
    hashes = hash_I.to_pylist() if head else []
    tables, inputs, provenance = [], [], []
    for part, rows, input_N in _places(store, head, hashes) if head else ():
        wanted = [hashes[n] for n in input_N]
        taken = _taken(store, plan, head["parts"][part], head["columns"], rows, wanted)
        if taken is not None:
            table, count_N, made_by = taken
            tables.append(table)
            inputs.append(np.repeat(input_N, count_N))
            provenance = together(provenance, made_by)
    return Reused(
        pa.concat_tables([_schema(plan).empty_table(), *tables]),
        np.concatenate([np.zeros(0, np.int64), *inputs]).astype(np.int32),
        provenance,
    )


def together(some: list[dict[str, str]], more: list[dict[str, str]]) -> list[dict[str, str]]:
    """Each provenance once, in an order of its own."""
    unique = {canonical(engine): engine for engine in [*some, *more]}
    return [unique[key] for key in sorted(unique)]


def _head(store: Store, name: str) -> dict[str, Any] | None:
    try:
        return json.loads(store.read(name))
    except FileNotFoundError:  # the plan's generation is over, and gc has been here
        return None


def _places(
    store: Store, head: dict[str, Any], hashes: list[bytes]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(part, rows, the input of each) for each part that has some, rows rising."""
    try:
        found_N3 = find(store, head["segments"], as_halves(hashes))
    except (pa.ArrowException, OSError):
        return
    borders = np.flatnonzero(np.diff(found_N3[:, 1])) + 1
    for group_N3 in np.split(found_N3, borders) if len(found_N3) else ():
        yield int(group_N3[0, 1]), group_N3[:, 2], group_N3[:, 0]


def _taken(
    store: Store, plan: Plan, path: str, names: list[str], row_N: np.ndarray, wanted: list[bytes]
) -> tuple[pa.Table, np.ndarray, list[dict[str, str]]] | None:
    """Those rows of a part with all their windows, how many each has, and what made the part.

    None if it is gone, cannot be read, or is not what the index says.
    """
    schema = _schema(plan)
    renamed = dict(zip((column.name for column in plan.columns), names, strict=True))
    columns = [renamed.get(name, name) for name in schema.names]
    try:
        with store.open(path) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False)
            footer = read_footer(file.metadata)
            count_N = _windows(file, row_N) if has_windows(plan) else np.ones(len(row_N), np.int64)
            first_N = np.cumsum(count_N) - count_N
            within_V = np.arange(count_N.sum()) - np.repeat(first_N, count_N)
            rows_V = np.repeat(row_N, count_N) + within_V
            table = pa.Table.from_batches(_rows(file, rows_V, [*columns, "input_hash"]))
        hash_V = [wanted[n] for n in np.repeat(np.arange(len(row_N)), count_N)]
        right = table.column("input_hash").to_pylist() == hash_V
        if has_windows(plan):
            right &= np.array_equal(table.column("window").to_numpy(), within_V)
        found = [table.column(name) for name in columns]
    except (pa.ArrowException, OSError, KeyError, IndexError):
        return None
    if not right or footer is None:
        return None
    return pa.Table.from_arrays(found, schema.names).cast(schema), count_N, footer.provenance


def _windows(file: pq.ParquetFile, row_N: np.ndarray) -> np.ndarray:
    """How many windows each row has that begins there."""
    window_V = file.read(["window"]).column(0).to_numpy()
    ends = np.append(np.flatnonzero(window_V == 0), len(window_V))
    return ends[np.searchsorted(ends, row_N, "right")] - row_N


def _rows(file: pq.ParquetFile, row_V: np.ndarray, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows, whose numbers rise; row groups that have none are not read."""
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    for group in np.unique(np.searchsorted(ends, row_V, "right")):
        first = int(ends[group]) - sizes[group]
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[int(group)], columns=columns):
            here = row_V[(row_V >= first) & (row_V < first + len(batch))] - first
            yield batch.take(pa.array(here))
            first += len(batch)


def _schema(plan: Plan) -> pa.Schema:
    """What is taken over of a row; the rest of it is read anew."""
    return pa.schema(
        [
            *(pa.field(c.name, vector_type(c), nullable=False) for c in plan.columns),
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("n_chars_cut", pa.int64(), nullable=False),
            *(WINDOW_FIELDS if has_windows(plan) else []),
        ]
    )
