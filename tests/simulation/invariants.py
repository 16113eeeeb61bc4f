"""What must be true: at every manifest, at every deletion, at every end, and when all is quiet.

None of it uses the shipped code's own judgement: objects are looked at as the bucket has them.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.pipeline.snapshot.read import PLANS, generation_of, read_plan_head
from embedmill.schemas.manifest import (
    Manifest,
    PartRecord,
    manifest_name,
    part_name,
    record_from_row,
)
from embedmill.schemas.plan import Plan, Unit
from tests.simulation import house
from tests.simulation.storage import FOLDER, texts

if TYPE_CHECKING:
    from embedmill.schemas.report import RunReport
    from tests.simulation.world import World

Contents = tuple[tuple[str, int, int, int], ...]  # uri, content, start, rows
undisturbed: dict[tuple[str, Contents], bytes] = {}  # parts as a run alone in the world makes them


def check_manifest(world: World, name: str) -> None:
    """A manifest that just became visible: chained, whole, and right to the last vector."""
    number = generation_of(name)
    manifest, records = read(world, number)
    before = world.bucket.there.get(manifest_name(number - 1))
    if manifest.previous != (hashlib.sha256(before.data).hexdigest() if before else ""):
        world.broken("chain", f"manifest {number} does not follow the one before it")
    if (before is None) != (number == 1) or manifest.generation != number:
        world.broken("chain", f"manifest {number} has no predecessor")
    named = _named_by(world, manifest, records)
    world.snapshots[number] = manifest, records, named
    if gone := [object_name for object_name in named if object_name not in world.bucket.there]:
        world.broken("gone", f"manifest {number} names {gone[0]}, which is not there")
        return
    for record in records:
        check_part(world, manifest, record)
    _check_tiling(world, records)
    sums = [sum(getattr(r, key) for r in records) for key in ("rows_in", "rows_out")]
    rejected = sum(r.rows_rejected for r in records)
    if sums != [manifest.rows_in, manifest.rows_out] or sums[0] != sums[1] + rejected:
        world.broken("lost", f"manifest {number} does not add up")
    actor = world.scheduler.current
    check_versions(world, records, actor.facts.get("began", actor.began) if actor else world.step)
    if number - 1 in world.snapshots:
        _check_step(world, number)


def _check_step(world: World, number: int) -> None:
    """A snapshot against the one before it: of a later input, and of another model only if asked.

    Each shard is in it as it was, or was not there, at some time since that one was committed.
    """
    (before, _, _), (after, new, _) = (world.snapshots[n] for n in (number - 1, number))
    check_versions(world, new, world.bucket.past[manifest_name(number - 1)][0].created)
    actor = world.scheduler.current
    asked = actor is None or actor.facts["spec"].replace
    if before.fingerprint != after.fingerprint and not asked:
        world.broken("replaced", f"manifest {number} is of another encoding, unasked")


def read(world: World, number: int) -> tuple[Manifest, list[PartRecord]]:
    """A manifest and its parts as the bucket has them."""
    manifest = Manifest.from_bytes(world.bucket.there[manifest_name(number)].data, "")
    table = world.bucket.there.get(f"_embed/manifest/{manifest.table}")
    if table is None or hashlib.sha256(table.data).hexdigest() != manifest.table_sha256:
        world.broken("gone", f"manifest {number} has no table")
        return manifest, []
    rows = pa.ipc.open_file(pa.py_buffer(table.data)).read_all().to_pylist()
    return manifest, [record_from_row(row) for row in rows]


def _named_by(world: World, manifest: Manifest, records: list[PartRecord]) -> set[str]:
    """Every object that a snapshot needs."""
    names = {record.path for record in records}
    names |= {record.rejects_path for record in records if record.rejects_path}
    names |= {f"_embed/manifest/{manifest.table}", f"{PLANS}/{manifest.plan}"}
    if f"{PLANS}/{manifest.plan}" in world.bucket.there:
        names.add(f"{PLANS}/{read_plan_head(world.free, manifest.plan)['units']}")
    return names


def check_part(world: World, manifest: Manifest, record: PartRecord) -> None:
    """One part: the bytes that its record says, an undisturbed run makes, and the texts ask for."""
    data = world.bucket.there[record.path].data
    if (hashlib.sha256(data).hexdigest(), len(data)) != (record.sha256, record.bytes):
        world.broken("digest", f"{record.path} is not what the manifest says")
    contents = tuple(
        (s.shard.uri, world.inputs.contents[s.shard.uri, s.shard.version], s.start, s.rows)
        for s in record.slices
    )
    if (wrong := _wrong_vectors(data, contents, manifest.fingerprint)) is not None:
        world.broken("wrong", f"{record.path}: {wrong}")
    rejects = world.bucket.there[record.rejects_path].data if record.rejects_path else b""
    if _rejects_in(rejects) != _rejects_of(contents):
        world.broken("wrong", f"{record.path}: its rejects are not those of its rows")
    key = record.path, contents
    if key not in undisturbed:
        plan = Plan.from_json(read_plan_head(world.free, manifest.plan)["plan"])
        plan = replace(plan, generation=generation_of(record.path.partition("-g")[2]))
        undisturbed[key] = house.alone(plan, Unit(record.unit_key, record.slices), contents)
    if record.path.startswith(f"data/{manifest.fingerprint[:12]}/") and data != undisturbed[key]:
        world.broken("bytes", f"{record.path} is not what an undisturbed run makes")


@functools.lru_cache(100_000)
def _wrong_vectors(data: bytes, contents: Contents, fingerprint: str) -> str | None:
    """What is wrong with a part's rows; None if nothing is."""
    table = pq.read_table(pa.BufferReader(data))
    wanted = [(name, text) for name, _, text in _rows(contents) if text and not text.isspace()]
    if [name for name, _ in wanted] != table.column("id").to_pylist():
        return "other rows than its slices have, or in another order"
    for (name, text), vector in zip(wanted, table.column("vector").to_pylist(), strict=True):
        if not np.array_equal(house.vector_of(house.ids_of(text), fingerprint), vector):
            return f"row {name} has the vector of another text or encoding"
    return None


@functools.lru_cache(10_000)
def _rejects_in(data: bytes) -> list[tuple[str, int]]:
    if not data:
        return []
    rows = pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pylist()
    return [(row["shard"], row["row"]) for row in rows]


@functools.lru_cache(10_000)
def _rejects_of(contents: Contents) -> list[tuple[str, int]]:
    places = [(place, text) for _, place, text in _rows(contents)]
    return [place for place, text in places if text is None or text.isspace()]


def _rows(contents: Contents) -> list[tuple[str, tuple[str, int], str | None]]:
    """(id, place, text) of all rows of a unit."""
    return [
        (f"{uri.rpartition('/')[2]}#{row}", (uri, row), texts(uri, content)[row])
        for uri, content, start, rows in contents
        for row in range(start, start + rows)
    ]


def _check_tiling(world: World, records: list[PartRecord]) -> None:
    """Every row of every shard in exactly one part, and every shard in one version."""
    pieces = defaultdict(list)
    for record in records:
        for piece in record.slices:
            pieces[piece.shard.uri].append((piece.start, piece.rows, piece.shard))
    for uri, places in pieces.items():
        at = 0
        for start, rows, shard in sorted(places, key=lambda place: place[:2]):
            if start != at or shard != places[0][2]:
                world.broken("tiling", f"{uri}: a row twice, or none, or two versions, at {at}")
            at = start + rows
        if at != len(texts(uri, world.inputs.contents[uri, places[0][2].version])):
            world.broken("tiling", f"{uri}: rows are missing after {at}")


def check_versions(
    world: World, records: list[PartRecord], began: int, ended: int | None = None
) -> None:
    """The snapshot is of an input that was there while the run was: no shard lost or stale."""
    found = {s.shard.uri: s.shard.version for record in records for s in record.slices}
    for uri in {uri for _, uri, _ in world.inputs.log}:
        seen = world.inputs.versions(uri, began, world.step if ended is None else ended)
        if found.get(uri) not in seen:
            world.broken("stale", f"{uri} is there in version {found.get(uri)}, not one of {seen}")


def check_delete(world: World, name: str) -> None:
    """Nothing goes that a kept manifest names, or that one in the making may name."""
    newest = max(world.snapshots, default=0)
    for number in range(max(1, newest - world.keep + 1), newest + 1):
        if number in world.snapshots and name in world.snapshots[number][2]:
            world.broken("collected", f"{name} goes, and manifest {number} names it")
    if name.startswith(("data/", "_embed/rejects/", f"{PLANS}/")):
        stem = name.partition("-g")[2] or name.rpartition("/")[2]
        if generation_of(stem) > newest:
            world.broken("collected", f"{name} goes, and manifest {newest + 1} may name it")


def check_work(world: World, plan: Plan, unit: Unit) -> None:
    """A unit went through the encoder: was its part there before the run looked for it?"""
    actor = world.scheduler.current
    if actor is not None and actor.name != "run":
        return
    part = world.bucket.there.get(part_name(plan.fingerprint, unit.key, plan.generation))
    looked = frozen(actor.facts)[1] if actor else world.step
    if part is not None and part.created < looked:
        world.broken("redone", f"unit {unit.key} is encoded again, its part was there")


def frozen(facts: dict) -> tuple[str, int]:
    """The plan that a run froze last, and when; "" if it never came so far."""
    plans = {n: s for n, s in facts.get("creates", {}).items() if n.startswith(f"{PLANS}/")}
    names = [name for name in plans if name.endswith(".json")]
    return (names[-1].rpartition("/")[2], plans[names[-1]]) if names else ("", 0)


def check_quiet(world: World, report: RunReport) -> None:
    """After a quiet run the output is exactly the snapshot, and the snapshot is the input."""
    newest = max(world.snapshots)
    _, records, named = world.snapshots[newest]
    if report.manifest != manifest_name(newest):
        world.broken("quiet", f"the report says {report.manifest}, the newest is {newest}")
    extra = {n for folder in ("data", "_embed/rejects") for n in world.bucket.names(folder)}
    extra |= {n for n in world.bucket.names(PLANS) if generation_of(n) <= newest}
    if extra := extra - named:
        world.broken("quiet", f"{min(extra)} is left over")
    check_versions(world, records, world.step)
    if {s.shard.uri for r in records for s in r.slices} != set(world.inputs.now):
        world.broken("quiet", f"the snapshot has other shards than {FOLDER}")
    check_kept(world)


def check_kept(world: World) -> None:
    """What the newest snapshot names is there with the bytes that it names."""
    newest = max(world.snapshots)
    for record in world.snapshots[newest][1]:
        there = world.bucket.there.get(record.path)
        if there is None or hashlib.sha256(there.data).hexdigest() != record.sha256:
            world.broken("gone", f"{record.path} of manifest {newest} is gone or changed")
