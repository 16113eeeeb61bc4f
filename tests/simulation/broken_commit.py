"""Mistakes in committing: what a store promises, what gc takes, how manifests and parts are made.

Each function gives the patches which make one mistake; its docstring says which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import embedmill.jobs.run
import embedmill.pipeline.flow
import embedmill.pipeline.parts.commit
import embedmill.pipeline.snapshot.gc
import embedmill.pipeline.snapshot.read
from embedmill.schemas.errors import ConflictError
from embedmill.schemas.manifest import manifest_name, part_name
from tests.simulation.storage import Bucket, SimulatedStore

Patches = list[Any]  # of unittest.mock


def overwriting_create() -> Patches:
    """The store replaces an object that is there, and says that it made it."""
    return [patch.object(Bucket, "create", lambda self, name, data: not self.put(name, data))]


def check_then_write() -> Patches:
    """A creation looks first and writes then, in two requests."""

    def create(self: SimulatedStore, name: str, data: Any) -> bool:
        if self.size(name) is not None:
            return False
        return self._request("create", name, lambda: not self.bucket.put(name, bytes(data)))

    return [patch.object(SimulatedStore, "create", create)]


def torn_create() -> Patches:
    """An object can be seen while half of it is written."""
    whole = SimulatedStore.create

    def create(self: SimulatedStore, name: str, data: Any) -> bool:
        content = bytes(data)
        if not whole(self, name, content[: len(content) // 2]):
            return False
        return self._request("create", name, lambda: not self.bucket.put(name, content))

    return [patch.object(SimulatedStore, "create", create)]


def collect_by_listing() -> Patches:
    """gc takes whatever the newest manifest does not name, also of the generation in the making."""
    folders = ("data", "_embed/rejects", embedmill.pipeline.snapshot.read.PLANS)

    def candidates(store: Any, newest: int) -> list[str]:
        return [name for folder in folders for name in store.list(folder)]

    return [patch.object(embedmill.pipeline.snapshot.gc, "_candidates", candidates)]


def collect_one_too_many() -> Patches:
    """gc is off by one generation."""
    right = embedmill.pipeline.snapshot.gc._candidates
    return [
        patch.object(
            embedmill.pipeline.snapshot.gc, "_candidates", lambda store, n: right(store, n + 1)
        )
    ]


def _named_without(folder: str) -> Patches:
    right = embedmill.pipeline.snapshot.gc._named

    def named(store: Any, generation: int) -> set[str]:
        return {name for name in right(store, generation) if not name.startswith(folder)}

    return [patch.object(embedmill.pipeline.snapshot.gc, "_named", named)]


def collect_rejects() -> Patches:
    """gc does not know that a snapshot needs its rejects."""
    return _named_without("_embed/rejects")


def collect_plans() -> Patches:
    """gc does not know that a snapshot needs its plan."""
    return _named_without(embedmill.pipeline.snapshot.read.PLANS)


def collect_carried() -> Patches:
    """gc keeps only the parts that were made for the newest generation."""
    right = embedmill.pipeline.snapshot.gc._named

    def named(store: Any, generation: int) -> set[str]:
        return {n for n in right(store, generation) if "-g" not in n or f"-g{generation:06d}" in n}

    return [patch.object(embedmill.pipeline.snapshot.gc, "_named", named)]


def _snapshot_commit(refused: Callable[..., Any]) -> Patches:
    """commit_snapshot with another way to go on where the manifest's number is taken."""

    def commit(store: Any, planned: Any, plan_name: str, records: list) -> Any:
        manifest, table = embedmill.pipeline.parts.commit._manifest(planned, plan_name, records)
        store.create(f"_embed/manifest/{manifest.table}", table)
        if store.create(manifest_name(manifest.generation), manifest.to_bytes()):
            return manifest
        return refused(store, planned, plan_name, records, manifest)

    return [patch.object(embedmill.jobs.run, "commit_snapshot", commit)]


def what_stands_is_mine() -> Patches:
    """Who finds the manifest's number taken believes that it was its own doing."""
    return _snapshot_commit(lambda store, planned, name, records, manifest: manifest)


def refused_is_lost() -> Patches:
    """Who finds the number taken believes that it was another's doing, and does not look."""

    def refused(store: Any, *_: Any) -> None:
        raise ConflictError("OUTPUT_CONFLICT", "", "the number is taken")

    return _snapshot_commit(refused)


def next_number() -> Patches:
    """Who finds the number taken takes the next one, with the plan it has."""

    def refused(store: Any, planned: Any, name: str, records: list, manifest: Any) -> Any:
        standing = embedmill.pipeline.snapshot.read.read_snapshot(store, manifest.generation)
        if standing.manifest.plan == name:
            return standing.manifest
        plan = replace(planned.plan, generation=manifest.generation + 1)
        again = replace(planned, plan=plan, base=standing)
        return embedmill.jobs.run.commit_snapshot(store, again, name, records)

    return _snapshot_commit(refused)


def no_predecessor() -> Patches:
    """A manifest does not say which one it follows."""
    right = embedmill.pipeline.parts.commit._manifest

    def manifest(*args: Any) -> tuple:
        made, table = right(*args)
        return replace(made, previous=""), table

    return [patch.object(embedmill.pipeline.parts.commit, "_manifest", manifest)]


class _Later:
    """A store whose creations under one folder happen only when it is told to."""

    def __init__(self, store: SimulatedStore, folder: str) -> None:
        self._store, self._folder, self._waiting = store, folder, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, name: str, data: Any) -> bool:
        if not name.startswith(self._folder):
            return self._store.create(name, data)
        self._waiting.append((name, data))
        return True

    def now(self) -> None:
        for name, data in self._waiting:
            self._store.create(name, data)


def manifest_before_parts() -> Patches:
    """The manifest is made first, and the parts that it names at once after it."""
    right_unit, right_snapshot = (
        embedmill.pipeline.parts.commit.commit_unit,
        embedmill.pipeline.parts.commit.commit_snapshot,
    )

    def unit(store: Any, plan: Any, encoded: Any) -> Any:
        actor = store.world.scheduler.current
        later = _Later(store, "data/")
        record = right_unit(later, plan, encoded)
        if actor is None or actor.name != "run":
            later.now()
        else:
            actor.facts.setdefault("later", []).append(later)
        return record

    def snapshot(store: Any, *args: Any) -> Any:
        made, actor = right_snapshot(store, *args), store.world.scheduler.current
        for later in actor.facts.pop("later", []) if actor else []:
            later.now()
        return made

    return [
        patch.object(embedmill.pipeline.flow, "commit_unit", unit),
        patch.object(embedmill.jobs.run, "commit_snapshot", snapshot),
    ]


def rejects_after_part() -> Patches:
    """A part is there before the rejects that it names."""
    right = embedmill.pipeline.parts.commit.commit_unit

    def unit(store: Any, plan: Any, encoded: Any) -> Any:
        later = _Later(store, "_embed/rejects/")
        record = right(later, plan, encoded)
        later.now()
        return record

    return [patch.object(embedmill.pipeline.flow, "commit_unit", unit)]


def refused_part_is_an_error() -> Patches:
    """Who finds its part made already does not adopt it."""
    right = embedmill.pipeline.parts.commit.commit_unit

    def unit(store: Any, plan: Any, encoded: Any) -> Any:
        name = part_name(plan.fingerprint, encoded.unit.key, plan.generation)
        if store.size(name) is not None:
            raise ConflictError("PART_EXISTS", name, "is there already")
        return right(store, plan, encoded)

    return [patch.object(embedmill.pipeline.flow, "commit_unit", unit)]
