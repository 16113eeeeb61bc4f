"""Plans a run: what is new, what carries over, and every setting that can move a bit, frozen.

Comes in: a spec and the output's store. Goes out: a Plan, its units, and the parts of the last
snapshot that stay as they are. Writes nothing; `freeze` stores the plan when a run begins.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from embedmill.pipeline.identity import canonical, digest, unit_key
from embedmill.pipeline.model.folder import ModelFolder, open_model, warn_unpinned
from embedmill.pipeline.plan.columns import carried_schema
from embedmill.pipeline.plan.resolve import (
    identity,
    most_rows,
    resolve_columns,
    resolve_device,
    resolve_model,
    resolve_settings,
)
from embedmill.pipeline.plan.shards import Found, Listing, list_shards
from embedmill.pipeline.plan.units import cut
from embedmill.pipeline.snapshot.read import PLANS, Snapshot, latest, open_plans, read_plan, table
from embedmill.pipeline.store.ipc import ipc_bytes
from embedmill.pipeline.store.output import Store, each
from embedmill.schemas.columns import SLICE, UNITS, Status, encode_schema
from embedmill.schemas.errors import ConflictError, StorageError
from embedmill.schemas.manifest import NAMED, PART_TABLE, slices_to_rows, table_of, unit_of
from embedmill.schemas.plan import Plan, Settings, Unit, VectorColumn
from embedmill.schemas.spec import Input, Spec


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan and what it stands on."""

    plan: Plan
    units: list[Unit]  # to be encoded under this plan's generation
    carried: pa.Table  # rows of the last snapshot's table that stay (PART_TABLE)
    listing: Listing
    base: Snapshot | None
    parts: pa.Table  # the last snapshot's table, all of it
    layout: str
    model: ModelFolder
    counts: dict[str, int]  # shards, rows, rows_new, rows_changed, rows_carried

    @property
    def before(self) -> int:
        """Rows of the last snapshot's input; 0 if there is none."""
        return self.base.manifest.rows_in if self.base else 0

    @property
    def unchanged(self) -> bool:
        """Whether the last snapshot already is what this plan would make."""
        if self.base is None or self.units:
            return False
        last, left_out = self.base.manifest, self.listing.left_out
        return (last.parts, last.layout, last.quarantined, last.num_quarantined) == (
            len(self.carried), self.layout, left_out[:NAMED], len(left_out),
        )  # fmt: skip


def make_plan(spec: Spec, store: Store) -> Planned:
    """Plans against the last snapshot; every problem that can be known now is raised now."""
    while True:
        base = latest(store)
        try:
            return _plan_on(base, spec, store)
        except StorageError as error:
            if error.code != "OBJECT_GONE" or latest(store) == base:
                raise  # else another run committed the next snapshot, and collected this one


def _plan_on(base: Snapshot | None, spec: Spec, store: Store) -> Planned:
    device = resolve_device(spec.run.device)
    listing = list_shards(spec.input, store.uri)
    carried = carried_schema(spec.input, listing.found)
    model = open_model(spec.model.name, spec.model.revision)
    warn_unpinned(model, spec.model.revision)
    model_facts, columns = resolve_model(spec, model), resolve_columns(spec, model)
    layout = digest(
        [
            [c.name for c in columns],
            encode_schema(carried),
            spec.input.id,
            spec.input.on_empty == "encode",
        ]
    )
    settings = _inherit(
        spec,
        resolve_settings(spec, device, columns, model_facts["max_tokens"], model.dim),
        most_rows(spec, columns, model_facts["max_tokens"]),
        store,
        base,
        lambda precision: digest(identity(spec, model_facts, columns, precision)),
    )
    facts = identity(spec, model_facts, columns, settings.precision)
    plan = Plan(
        generation=base.manifest.generation + 1 if base else 1,
        base=base.sha256 if base else "",
        fingerprint=digest(facts),
        identity=facts,
        output=store.uri,
        input=spec.input.model_dump(),
        model=model_facts,
        columns=columns,
        id_column=carried.names[0],
        carried_schema=encode_schema(carried),
        settings=settings,
        keyed=bool(spec.index),
    )
    if base and base.manifest.fingerprint != plan.fingerprint and not spec.output.replace:
        raise _other_fingerprint(store, base, facts)
    parts = table(store, base.manifest) if base else PART_TABLE.empty_table()
    same = _unchanged(base, parts, plan, layout, listing.found)
    stays, fallen = _standing(store, spec.input, same)
    units = [*_new_units(plan, layout, listing.found, same), *fallen]
    counts = _count(listing.found, stays, parts)
    return Planned(plan, units, stays, listing, base, parts, layout, model, counts)


def freeze(store: Store, planned: Planned) -> str:
    """Stores the plan; returns its name. Two drivers with the same plan write the same object."""
    rows = ({"unit_key": u.key, "slices": slices_to_rows(u.slices)} for u in planned.units)
    units = ipc_bytes(table_of(rows, UNITS))
    head: dict[str, Any] = {"plan": planned.plan.to_json()}
    head["carried"] = digest(sorted(planned.carried.column("path").to_pylist()))
    head["units_sha256"] = hashlib.sha256(units).hexdigest()
    stem = f"{planned.plan.generation:06d}-{digest(head)[:16]}"
    head["units"] = f"{stem}.arrow"
    store.create(f"{PLANS}/{stem}.arrow", units)
    store.create(f"{PLANS}/{stem}.json", canonical(head))
    return f"{stem}.json"


def _inherit(
    spec: Spec,
    own: Settings,
    most: int,
    store: Store,
    base: Snapshot | None,
    fingerprint_of: Any,
) -> Settings:
    """An open plan's settings if it makes the same vectors; else the last snapshot's precision.

    The cut, too, unless the spec asks for smaller units than an open plan has: those may be too
    large to be encoded at all. `most`: rows of a unit of these columns.
    """
    auto, said = spec.model.precision == "auto", spec.run.unit_rows != "auto"
    for _, plan in open_plans(store, base.manifest.generation + 1 if base else 1):
        precision = plan.settings.precision if auto else own.precision
        if plan.settings.device == own.device and plan.fingerprint == fingerprint_of(precision):
            cut = plan.settings.unit_rows
            return replace(plan.settings, unit_rows=min(cut, own.unit_rows) if said else cut)
    if base is None:
        return own
    last, _ = read_plan(store, base.manifest.plan)
    return replace(
        own,
        precision=last.settings.precision if auto else own.precision,
        unit_rows=own.unit_rows if said else min(most, last.settings.unit_rows),
    )


def _unchanged(
    base: Snapshot | None, parts: pa.Table, plan: Plan, layout: str, found: list[Found]
) -> pa.Table:
    """Parts of the last snapshot whose shards are all as they were: they stay, cut and all.

    Where the parts hold default ids, a shard that is named otherwise is another one.
    """
    if (
        base is None
        or base.manifest.fingerprint != plan.fingerprint
        or base.manifest.layout != layout
    ):
        return PART_TABLE.empty_table()
    import polars as pl

    keys = ["uri", "size", "version", "footer", *(["name"] if plan.input["id"] is None else [])]
    now = pl.DataFrame({key: [getattr(f.shard, key) for f in found] for key in keys})
    slices = pl.DataFrame(
        {"part": range(len(parts)), "slice": pl.Series(parts.column("slices").combine_chunks())}
    )
    whole = (
        slices.explode("slice")
        .unnest("slice")
        .join(now.with_columns(same=True), on=keys, how="left")
        .group_by("part")
        .agg(pl.col("same").fill_null(False).all())
        .sort("part")
    )
    return parts.filter(whole["same"].to_arrow())


def _standing(store: Store, spec: Input, parts: pa.Table) -> tuple[pa.Table, list[Unit]]:
    """The parts that stand, and the units of the others, to be made anew.

    A part stands if it is there with its rejects, and has none that the spec by now fails on: who
    reads such rows again says which they are.
    """
    policies = {
        Status.NULL_TEXT: spec.on_null,
        Status.EMPTY_TEXT: spec.on_empty,
        Status.UNREADABLE: spec.on_bad_file,
    }
    refused = {status.name for status, policy in policies.items() if policy == "fail"}
    names = ("path", "bytes", "rejects_path", "rejects")
    rows = zip(*(parts.column(name).to_pylist() for name in names), strict=True)

    def stands(row: tuple[str, int, str, list[tuple[str, int]]]) -> bool:
        path, size, rejects_path, rejects = row
        if refused.intersection(code for code, _ in rejects):
            return False
        there = not rejects_path or store.size(rejects_path) is not None
        return there and store.size(path) == size

    stand = pa.array(each(store, stands, rows), pa.bool_())
    others = parts.filter(pc.invert(stand)).select(["unit_key", "slices"])
    return parts.filter(stand), [unit_of(row) for row in others.to_pylist()]


def _new_units(plan: Plan, layout: str, found: list[Found], carried: pa.Table) -> list[Unit]:
    covered = {piece["uri"] for pieces in carried.column("slices").to_pylist() for piece in pieces}
    shards = [(f.shard, f.row_groups) for f in found if f.shard.uri not in covered]
    return [
        Unit(unit_key(slices, plan.fingerprint, layout), slices)
        for slices in cut(shards, plan.settings.unit_rows)
    ]


def _count(found: list[Found], carried: pa.Table, parts: pa.Table) -> dict[str, int]:
    rows = sum(f.shard.rows for f in found)
    stays = sum(carried.column("rows_in").to_pylist())
    slices = parts.column("slices").combine_chunks().flatten()
    known = set(slices.field(SLICE.names.index("uri")).to_pylist())
    changed = sum(f.shard.rows for f in found if f.shard.uri in known) - stays
    return {
        "shards": len(found),
        "rows": rows,
        "rows_new": rows - stays - changed,
        "rows_changed": changed,
        "rows_carried": stays,
    }


def _other_fingerprint(store: Store, base: Snapshot, now: dict[str, Any]) -> ConflictError:
    before = base.manifest.identity
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return ConflictError(
        "OTHER_FINGERPRINT",
        store.uri,
        f"its vectors were made with another {', '.join(keys)}",
        "set output.replace: true to replace them, or choose another output.path",
    )


__all__ = ["Planned", "VectorColumn", "freeze", "ipc_bytes", "make_plan"]
