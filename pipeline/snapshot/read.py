"""Reads what is committed: manifests, their tables, and plans. Writes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from embedmill.pipeline.store.output import Store
from embedmill.schemas.errors import ConflictError, StorageError
from embedmill.schemas.manifest import Manifest, manifest_name
from embedmill.schemas.plan import Plan

PLANS = "_embed/plan"
REUSE = "_embed/reuse"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A committed manifest and the digest that the next one names as its predecessor."""

    manifest: Manifest
    sha256: str


def latest(store: Store) -> Snapshot | None:
    """The newest snapshot; None if nothing was ever committed.

    A listing is only a hint of where to start: whether number n + 1 exists is asked directly.
    """
    numbers = [
        generation_of(name) for name in store.list("_embed/manifest") if name.endswith(".json")
    ]
    generation = max(numbers, default=0)
    while store.size(manifest_name(generation + 1)) is not None:
        generation += 1
    return read_snapshot(store, generation) if generation else None


def read_snapshot(store: Store, generation: int) -> Snapshot:
    """One snapshot by number; FileNotFoundError if there is none."""
    data = store.read(manifest_name(generation))
    manifest = Manifest.from_bytes(data, store.where(manifest_name(generation)))
    return Snapshot(manifest, hashlib.sha256(data).hexdigest())


def required(store: Store) -> Snapshot:
    """The newest snapshot; ConflictError if the folder has none."""
    if (snapshot := latest(store)) is None:
        raise ConflictError(
            "NO_SNAPSHOT",
            store.uri,
            "holds no committed snapshot",
            "run the spec to its end first",
        )
    return snapshot


def table(store: Store, manifest: Manifest) -> pa.Table:
    """The manifest's table, one row a part (schemas.manifest.PART_TABLE), digest checked."""
    return read_table(store, f"_embed/manifest/{manifest.table}", manifest.table_sha256)


def read_table(store: Store, name: str, sha256: str) -> pa.Table:
    """An Arrow file whose digest is known; StorageError if it is gone or differs."""
    where = store.where(name)
    try:
        data = store.read(name)
    except FileNotFoundError:
        raise StorageError(
            "OBJECT_GONE", where, "is named by a manifest but gone", "run verify"
        ) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StorageError("DIGEST", where, "is not what was committed", "run verify")
    return pa.ipc.open_file(pa.py_buffer(data)).read_all()


def read_plan(store: Store, name: str) -> tuple[Plan, pa.Table]:
    """A frozen plan by its file name: the head, and its units (schemas.columns.UNITS)."""
    head = read_plan_head(store, name)
    units = read_table(store, f"{PLANS}/{head['units']}", head["units_sha256"])
    return Plan.from_json(head["plan"]), units


def read_plan_head(store: Store, name: str) -> dict[str, Any]:
    """A frozen plan's JSON: {plan, carried, units, units_sha256}; StorageError if it is none."""
    where = store.where(f"{PLANS}/{name}")
    do = "restore it from a copy; if no manifest names it, delete it and run again"
    try:
        head = json.loads(store.read(f"{PLANS}/{name}"))
        Plan.from_json(head["plan"])
        return {**head, "units": str(head["units"]), "units_sha256": str(head["units_sha256"])}
    except FileNotFoundError:
        raise StorageError("OBJECT_GONE", where, "the plan is gone", do) from None
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError("PLAN_CORRUPT", where, f"is not a plan ({error!r})", do) from None


def open_plans(store: Store, generation: int) -> Iterator[tuple[str, Plan]]:
    """Plans for a manifest that is not there yet: of a run that was interrupted, or runs now."""
    for path in store.list(PLANS):
        if path.endswith(".json") and generation_of(path) == generation:
            name = path.rpartition("/")[2]
            try:
                head = read_plan_head(store, name)
            except StorageError as error:
                if error.code != "OBJECT_GONE":
                    raise
                continue  # its generation ended since it was listed, and it was collected
            yield name, Plan.from_json(head["plan"])


def open_units(store: Store, generation: int) -> Iterator[tuple[str, Plan, pa.Table]]:
    """The same plans with their units (schemas.columns.UNITS)."""
    for name, _ in open_plans(store, generation):
        try:
            plan, units = read_plan(store, name)
        except StorageError as error:
            if error.code != "OBJECT_GONE":
                raise
            continue  # as above
        yield name, plan, units


def generation_of(name: str) -> int:
    """NNNNNN at the start of a file name; -1 if the name is not one of ours."""
    digits = name.rpartition("/")[2][:6]
    return int(digits) if digits.isdigit() else -1
