"""Removes what no kept manifest names. By generation, never by age: no clock is trusted.

A run that planned on snapshot n writes only names of generation n + 1. Once manifest n + 1 is
there, its unnamed objects can never be named by a later one, so they may go, whatever a slow
writer still believes. Objects of the generation that is in the making are never touched.
"""

from __future__ import annotations

import re

from embedmill.pipeline.snapshot.read import (
    PLANS,
    REUSE,
    generation_of,
    open_units,
    read_plan_head,
    read_snapshot,
    required,
    table,
)
from embedmill.pipeline.store.local import SCRATCH
from embedmill.pipeline.store.output import Store, each
from embedmill.schemas.errors import StorageError
from embedmill.schemas.manifest import keys_name

OF_UNITS = ("data", "_embed/rejects", "_embed/measured", "_embed/keys")
GENERATION = re.compile(
    r"^(?:data/[0-9a-f]{12}|_embed/rejects|_embed/measured|_embed/keys)"
    r"/[0-9a-f]{32}-g(\d{6,})[-.]"
)


def collect(store: Store, keep_snapshots: int) -> list[str]:
    """Deletes unnamed objects; returns their names. ConflictError if the folder is not an output.

    Manifests themselves stay: they are small, and each names the digest of the one before it.
    """
    newest = required(store).manifest.generation
    try:
        kept = _named(store, newest)
    except StorageError:
        if required(store).manifest.generation == newest:
            raise
        return collect(store, keep_snapshots)  # a later run has collected this snapshot meanwhile
    for generation in range(newest - 1, max(0, newest - keep_snapshots), -1):
        try:
            kept |= _named(store, generation)
        except FileNotFoundError:
            break
        except StorageError as error:
            if error.code != "OBJECT_GONE":
                raise
            break  # a gc that kept fewer snapshots took this one, and all before it
    removed = [name for name in _candidates(store, newest) if name not in kept]
    each(store, store.delete, removed)
    return removed


def _named(store: Store, generation: int) -> set[str]:
    """Every object that a snapshot needs; StorageError if its table or plan is gone."""
    manifest = read_snapshot(store, generation).manifest
    parts = table(store, manifest)
    paths = parts.column("path").to_pylist()
    return {
        *paths,
        *map(keys_name, paths),
        *parts.column("rejects_path").to_pylist(),
        f"_embed/manifest/{manifest.table}",
        f"{PLANS}/{manifest.plan}",
        f"{PLANS}/{read_plan_head(store, manifest.plan)['units']}",
    }


def _candidates(store: Store, newest: int) -> list[str]:
    """Objects whose generation is over, and scratch files of writers that died."""
    names = [*store.list(SCRATCH)]  # one that is still written to is simply written again
    for folder in OF_UNITS:
        for name in store.list(folder):
            match = GENERATION.match(name)
            if match and int(match[1]) <= newest:
                names.append(name)
    for folder in (PLANS, REUSE):
        for name in store.list(folder):
            if 0 < generation_of(name) <= newest:
                names.append(name)
    for name in store.list("_embed/manifest"):
        if name.endswith(".arrow") and 0 < generation_of(name) <= newest:
            names.append(name)
    return [*names, *_attempts(store, newest)]


def _attempts(store: Store, newest: int) -> list[str]:
    """Attempts at units that no open plan has. A plan is there before the first of its attempts."""
    names = list(store.list("_embed/attempts"))
    still: set[str] = set()
    for _, _, units in open_units(store, newest + 1) if names else ():
        still.update(units.column("unit_key").to_pylist())
    return [name for name in names if name.split("/")[2] not in still]
