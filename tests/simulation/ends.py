"""How an actor may end: which exit codes are right for what happened to it."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from embedmill.schemas.errors import EmbedmillError
from embedmill.schemas.manifest import manifest_name
from tests.simulation.invariants import check_versions, frozen
from tests.simulation.scheduler import Actor, Killed

if TYPE_CHECKING:
    from tests.simulation.world import World


def check_end(world: World, actor: Actor) -> None:
    """A right exit code: never a crash, never a failure without a cause, never a false success."""
    error = actor.error
    if error is None:
        if actor.name == "run":
            _check_success(world, actor)
    elif isinstance(error, Killed):
        if not actor.dead:
            world.broken("crash", f"{actor.name} {actor.number} died without being killed")
    elif not isinstance(error, EmbedmillError):
        world.broken("crash", f"{actor.name} {actor.number}: {describe(error)}")
    elif not _has_cause(world, actor, error):
        world.broken("exit", f"{actor.name} {actor.number} has no cause to end with {error}")


def _check_success(world: World, actor: Actor) -> None:
    """Exit 0: a manifest of this run's plan is there, made of an input that the run saw."""
    report, (plan, _) = actor.result, frozen(actor.facts)
    found = [n for n in world.snapshots if manifest_name(n) == report.manifest]
    if not found:
        world.broken("exit", f"run {actor.number} ends well without a manifest")
        return
    manifest, records, _ = world.snapshots[found[0]]
    if plan and manifest.plan != plan:
        world.broken("exit", f"run {actor.number} ends well, but {report.manifest} is of another")
    if manifest.identity["max_tokens"] != 16 + 16 * actor.facts["spec"].encoding:
        world.broken("exit", f"run {actor.number} ends well with another encoding")
    check_versions(world, records, actor.began, actor.ended)
    parts = ("encoded", "deduplicated", "reused", "resumed", "rejected")
    if report.rows_in != sum(getattr(report, f"rows_{part}") for part in parts):
        world.broken("exit", f"the report of run {actor.number} does not add up")


def _has_cause(world: World, actor: Actor, error: EmbedmillError) -> bool:
    began = actor.facts.get("began", actor.began)
    edited = any(began <= step <= actor.ended for step, _, _ in world.inputs.log)
    if error.exit_code == 3:
        return edited
    if error.exit_code == 7:
        return "failed" in actor.facts
    if error.exit_code == 130:
        return "stop" in actor.facts
    if error.code == "NO_SNAPSHOT":
        return not any(
            s for s in world.bucket.past if _is_manifest(s) and _age(world, s) < actor.began
        )
    if error.code == "OTHER_FINGERPRINT":
        return not actor.facts["spec"].replace
    if error.code == "OUTPUT_CONFLICT":
        return _lost_race(world, actor)
    return False


def _lost_race(world: World, actor: Actor) -> bool:
    """Whether another plan's manifest came while the run worked on the same number."""
    plan, _ = frozen(actor.facts)
    came = [n for n in world.snapshots if _age(world, manifest_name(n)) >= actor.began]
    if not plan:  # it had come so far that it had a number, and no plan's name yet
        return bool(came)
    return int(plan[:6]) in came and world.snapshots[int(plan[:6])][0].plan != plan


def _is_manifest(name: str) -> bool:
    return name.startswith("_embed/manifest/") and name.endswith(".json")


def _age(world: World, name: str) -> int:
    return world.bucket.past[name][0].created


def describe(error: BaseException) -> str:
    """An error in one line if it is one of ours, else with where it came from."""
    if isinstance(error, EmbedmillError):
        return f"exit {error.exit_code}, {error}"
    return "".join(traceback.format_exception(error)[-8:])
