"""Mistakes in planning: what tells units apart, what carries over, what a plan stands on.

Each function gives the patches which make one mistake; its docstring says which.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pyarrow as pa

import embedmill.jobs.run
import embedmill.pipeline.parts.commit
import embedmill.pipeline.plan.plan
import embedmill.pipeline.read.slices
import embedmill.pipeline.snapshot.read
from embedmill.pipeline.identity import unit_key
from embedmill.pipeline.plan.shards import list_shards
from embedmill.schemas.manifest import PART_TABLE, part_name
from tests.simulation import house

Patches = list[Any]  # of unittest.mock


def names_without_generation() -> Patches:
    """A part's name does not tell which manifest it is made for."""
    return [
        patch.object(
            embedmill.pipeline.parts.commit, "part_name", lambda f, key, g: part_name(f, key, 1)
        )
    ]


def number_from_a_listing() -> Patches:
    """The newest manifest is the last one of a listing."""

    def latest(store: Any) -> Any:
        names = [n for n in store.list("_embed/manifest") if n.endswith(".json")]
        number = max(map(embedmill.pipeline.snapshot.read.generation_of, names), default=0)
        return embedmill.pipeline.snapshot.read.read_snapshot(store, number) if number else None

    return [patch.object(embedmill.pipeline.plan.plan, "latest", latest)]


def done_by_listing() -> Patches:
    """Which units are done is what a listing says."""
    right = embedmill.pipeline.parts.commit.adopt_all

    def adopt_all(store: Any, plan: Any, units: list) -> tuple[list, list]:
        there = set(store.list("data"))
        done = [u for u in units if part_name(plan.fingerprint, u.key, plan.generation) in there]
        records, gone = right(store, plan, done)
        return records, [unit for unit in units if unit not in done or unit in gone]

    return [patch.object(embedmill.jobs.run, "adopt_all", adopt_all)]


def nothing_is_done() -> Patches:
    """A run that resumes does all units again."""
    return [patch.object(embedmill.jobs.run, "adopt_all", lambda store, plan, units: ([], units))]


def keys_without_versions() -> Patches:
    """A unit's name does not tell which version of its shards it is made of."""

    def key(slices: tuple, fingerprint: str, layout: str) -> str:
        blank = [replace(s, shard=replace(s.shard, size=0, version="", footer="")) for s in slices]
        return unit_key(tuple(blank), fingerprint, layout)

    return [patch.object(embedmill.pipeline.plan.plan, "unit_key", key)]


def versions_unread() -> Patches:
    """Reading does not look whether a shard is still the planned one."""

    class Whatever:
        def __ne__(self, other: object) -> bool:
            return False

    return [
        patch.object(embedmill.pipeline.read.slices, "version_now", lambda uri: Whatever()),
        patch.object(
            embedmill.pipeline.read.slices, "footer_digest", lambda source, uri, size: Whatever()
        ),
    ]


def carry_by_name() -> Patches:
    """Parts carry over as long as their shards are there, in whatever version."""

    def unchanged(base: Any, parts: Any, plan: Any, layout: str, found: list) -> pa.Table:
        if base is None or base.manifest.fingerprint != plan.fingerprint:
            return PART_TABLE.empty_table()
        uris = {item.shard.uri for item in found}
        rows = parts.column("slices").to_pylist()
        return parts.filter(
            pa.array([all(s["uri"] in uris for s in row) for row in rows], pa.bool_())
        )

    return [patch.object(embedmill.pipeline.plan.plan, "_unchanged", unchanged)]


def carry_to_another_encoding() -> Patches:
    """Parts carry over into a snapshot of another encoding."""
    right = embedmill.pipeline.plan.plan._unchanged

    def unchanged(base: Any, parts: Any, plan: Any, *rest: Any) -> pa.Table:
        if base is not None:
            plan = replace(plan, fingerprint=base.manifest.fingerprint)
        return right(base, parts, plan, *rest)

    return [patch.object(embedmill.pipeline.plan.plan, "_unchanged", unchanged)]


def replace_unasked() -> Patches:
    """Another encoding replaces the snapshot without output.replace."""
    right = embedmill.pipeline.plan.plan.make_plan

    def plan(spec: Any, store: Any) -> Any:
        output = spec.output.model_copy(update={"replace": True})
        return right(spec.model_copy(update={"output": output}), store)

    return [patch.object(embedmill.jobs.run, "make_plan", plan)]


def listed_before_the_base() -> Patches:
    """The input is listed first, and what the plan stands on is looked up then."""
    right, listings = embedmill.pipeline.plan.plan.make_plan, {}

    def who() -> int:
        actor = house.worlds[-1].scheduler.current
        return actor.number if actor else 0

    def plan(spec: Any, store: Any) -> Any:
        listings[who()] = list_shards(spec.input, store.uri)
        return right(spec, store)

    return [
        patch.object(embedmill.jobs.run, "make_plan", plan),
        patch.object(
            embedmill.pipeline.plan.plan, "list_shards", lambda spec, output: listings[who()]
        ),
    ]
