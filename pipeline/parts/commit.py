"""The only room that makes output visible: a unit's part, then the snapshot's manifest.

Each becomes visible at one instant, the conditional creation of one object. Before it nothing is
there, after it nothing changes. Who loses a race adopts what stands, after checking that it is
what it should be. Rejects are written first and named by the part's footer, so that a part that
is there accounts for every row of its unit.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.pipeline.batches import Encoded
from embedmill.pipeline.identity import canonical
from embedmill.pipeline.parts.footer import footer_of, read_footer
from embedmill.pipeline.parts.table import count_inputs
from embedmill.pipeline.parts.write import part_bytes
from embedmill.pipeline.plan.plan import Planned
from embedmill.pipeline.snapshot.read import read_snapshot
from embedmill.pipeline.store.ipc import ipc_bytes
from embedmill.pipeline.store.output import Store
from embedmill.schemas.columns import part_schema
from embedmill.schemas.errors import ConflictError, StorageError
from embedmill.schemas.footer import Footer
from embedmill.schemas.manifest import (
    FORMAT,
    MEASURED,
    NAMED,
    PART_TABLE,
    Manifest,
    PartRecord,
    manifest_name,
    measured_name,
    part_name,
    record_to_row,
    table_of,
)
from embedmill.schemas.plan import Plan, Unit

ASKED = 2000  # units that are asked for one by one; of more than these, a listing says which


def commit_unit(
    store: Store,
    plan: Plan,
    encoded: Encoded,
    made: Callable[[str, pa.Table], None] = lambda path, table: None,
) -> PartRecord:
    """Makes the unit's part visible, or adopts the one that is there; returns its record.

    `made` is called with path and table of a part that this call made. It is not called for an
    adopted part, whose rejects may be others.
    """
    unit, table = encoded.unit, encoded.table
    counts = count_inputs(table, plan.identity["long_text"])
    rows_out = counts["rows_out"]
    if rows_out != encoded.rows_out or rows_out + len(encoded.rejects) != unit.rows:
        raise StorageError(
            "ROWS_LOST",
            unit.key,
            f"{unit.rows} rows came in, {rows_out} + {len(encoded.rejects)} go out. This is a bug.",
        )
    rejects_path = ""
    if len(encoded.rejects):
        data = ipc_bytes(encoded.rejects)
        content = hashlib.sha256(data).hexdigest()
        rejects_path = f"_embed/rejects/{unit.key}-g{plan.generation:06d}-{content[:16]}.arrow"
        store.create(rejects_path, data)
    measured = encoded.measured
    store.create(measured_name(unit.key, plan.generation), canonical(measured))
    footer = footer_of(plan, encoded, rejects_path, counts)
    table = table.cast(part_schema(plan))  # a table that travelled may have lost inner "not null"s
    data = part_bytes(table, [column.name for column in plan.columns], footer)
    name = part_name(plan.fingerprint, unit.key, plan.generation)
    while not store.create(name, data):
        if record := adopt(store, plan, unit):
            return record  # else a gc took it: this generation is over, as the end will tell
    made(name, table)
    return _record(unit, name, hashlib.sha256(data).hexdigest(), data.size, footer, measured)


def adopt(store: Store, plan: Plan, unit: Unit) -> PartRecord | None:
    """The record of the unit's part if it is committed; StorageError if that part is not right."""
    name = part_name(plan.fingerprint, unit.key, plan.generation)
    if (size := store.size(name)) is None:
        return None
    where = store.where(name)
    try:
        with store.open(name) as file:
            metadata = pq.read_metadata(file)
        sha256 = store.sha256(name)
    except FileNotFoundError:
        return None  # a gc took it since: this generation is over
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            "PART_CORRUPT", where, f"cannot be read ({error})", "delete it and run again"
        ) from None
    footer = read_footer(metadata)
    wanted = (unit.key, plan.fingerprint, plan.ranges, unit.rows, metadata.num_rows)
    if footer is None or wanted != (
        footer.unit_key,
        footer.fingerprint,
        footer.ranges,
        footer.counts.get("rows_in"),
        footer.counts.get("vectors"),
    ):
        raise StorageError(
            "PART_CORRUPT", where, "is not the part that its name says", "delete it and run again"
        )
    measured = _measured(store, measured_name(unit.key, plan.generation))
    return _record(unit, name, sha256, size, footer, measured)


def adopt_all(store: Store, plan: Plan, units: list[Unit]) -> tuple[list[PartRecord], list[Unit]]:
    """Records of the units that are committed already, and the units that are not.

    Of many units only those are looked at that a listing names. It may miss one that another
    driver commits now; that one is found when it is encoded.
    """
    found: dict[str, PartRecord] = {}
    there = units if len(units) <= ASKED else _listed(store, plan, units)
    with ThreadPoolExecutor(8) as pool:
        for first in range(0, len(there), ASKED):
            records = pool.map(lambda unit: adopt(store, plan, unit), there[first : first + ASKED])
            found |= {record.unit_key: record for record in records if record is not None}
    return list(found.values()), [unit for unit in units if unit.key not in found]


def _listed(store: Store, plan: Plan, units: list[Unit]) -> list[Unit]:
    """Units whose part a listing names."""

    def name(key: str) -> str:
        return part_name(plan.fingerprint, key, plan.generation)

    names = set(store.list(name("").rpartition("/")[0]))
    return [unit for unit in units if name(unit.key) in names]


def commit_snapshot(
    store: Store, planned: Planned, plan_name: str, records: list[PartRecord]
) -> Manifest:
    """Creates the manifest that names the carried and the new parts.

    If its number is taken by a driver of the same plan, that one stands; else ConflictError.
    """
    manifest, table = _manifest(planned, plan_name, records)
    store.create(f"_embed/manifest/{manifest.table}", table)
    if store.create(manifest_name(manifest.generation), manifest.to_bytes()):
        return manifest
    standing = read_snapshot(store, manifest.generation).manifest
    if standing.plan != plan_name:
        raise _conflict(store, manifest.generation)
    return standing


@contextmanager
def overtaken(store: Store, plan: Plan) -> Iterator[None]:
    """Makes a ConflictError of an error inside: what is gone went because another snapshot came."""
    try:
        yield
    except StorageError as error:
        if error.code != "OBJECT_GONE" or store.size(manifest_name(plan.generation)) is None:
            raise
        raise _conflict(store, plan.generation) from None


def _conflict(store: Store, generation: int) -> ConflictError:
    return ConflictError(
        "OUTPUT_CONFLICT",
        store.uri,
        f"another run committed snapshot {generation} with another plan meanwhile",
        "run again: it plans on what is there now",
    )


def _manifest(
    planned: Planned, plan_name: str, records: list[PartRecord]
) -> tuple[Manifest, pa.Buffer]:
    plan, base = planned.plan, planned.base
    by_key = {record.unit_key: record for record in records}
    missing = [unit.key for unit in planned.units if unit.key not in by_key]
    if missing:
        raise StorageError(
            "UNITS_MISSING", plan.output, f"{len(missing)} units have no part. This is a bug."
        )
    rows = (record_to_row(by_key[unit.key]) for unit in planned.units)
    parts = pa.concat_tables([planned.carried, table_of(rows, PART_TABLE)])
    data = ipc_bytes(parts)
    sha256 = hashlib.sha256(data).hexdigest()
    rejects: Counter[str] = Counter()
    for entry in parts.column("rejects").to_pylist():
        for code, count in entry:
            rejects[code] += count
    left_out = planned.listing.left_out
    total = {
        name: sum(parts.column(name).to_pylist())
        for name in ("rows_in", "rows_out", "vectors", "rows_cut", "tokens")
    }
    if (
        total["rows_in"] != planned.counts["rows"]
        or total["rows_out"] + rejects.total() != total["rows_in"]
    ):
        raise StorageError(
            "ROWS_LOST",
            plan.output,
            f"the parts do not add up to the input: {total}. This is a bug.",
        )
    manifest = Manifest(
        format=FORMAT,
        generation=plan.generation,
        previous=base.sha256 if base else "",
        plan=plan_name,
        fingerprint=plan.fingerprint,
        identity=plan.identity,
        model={key: plan.model[key] for key in ("name", "revision", "digest")},
        columns=[{key: getattr(c, key) for key in c.__slots__} for c in plan.columns],
        layout=planned.layout,
        table=f"{plan.generation:06d}-{sha256[:16]}.arrow",
        table_sha256=sha256,
        parts=len(parts),
        rejects=dict(sorted(rejects.items())),
        quarantined=left_out[:NAMED],
        num_quarantined=len(left_out),
        **total,
    )
    return manifest, data


def _measured(store: Store, name: str) -> dict[str, Any]:
    """What the encoder saw of a unit; gone with the first gc after the unit's manifest."""
    try:
        found = json.loads(store.read(name))
    except (FileNotFoundError, ValueError):
        found = {}
    return {key: found.get(key, 0) for key in MEASURED}


def _record(
    unit: Unit, name: str, sha256: str, size: int, footer: Footer, measured: dict[str, Any]
) -> PartRecord:
    return PartRecord(
        unit_key=unit.key,
        path=name,
        sha256=sha256,
        bytes=size,
        rejects_path=footer.rejects_path,
        slices=unit.slices,
        **footer.counts,
        **{key: measured[key] for key in MEASURED},
    )
