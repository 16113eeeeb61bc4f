"""One history: the actors of a script live in one world, and who looks on finds what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import embedmill.jobs.run
import embedmill.pipeline.snapshot.gc
from embedmill.schemas.errors import StorageError
from embedmill.schemas.plan import Plan, Unit
from embedmill.schemas.spec import Spec
from tests.simulation import house, invariants
from tests.simulation.ends import check_end, describe
from tests.simulation.scheduler import Actor, Killed, Scheduler
from tests.simulation.script import Collect, Copy, Edit, Fault, Lag, ObjectStorage, Run, Script
from tests.simulation.storage import FOLDER, ROOT, Bucket, Inputs, SimulatedStore

CHANGES = ("create", "delete")
REQUESTS = (*CHANGES, "read", "open", "size", "sha256", "list")
# fault -> what it can happen to: requests, a look at the input, or the coming of either
CAN_MEET = {
    "pause": ("come",),
    "wait": ("come",),
    "kill": (*REQUESTS, "look"),
    "kill after": CHANGES,
    "lost": REQUESTS,
    "lost answer": REQUESTS,
    "twice": CHANGES,
    "late": CHANGES,
    "stale": ("list",),
    "stop": REQUESTS,
}


@dataclass(slots=True)
class World:
    """Everything of one history."""

    script: Script
    scheduler: Scheduler = field(init=False)
    bucket: Bucket = field(init=False)
    inputs: Inputs = field(init=False)
    free: SimulatedStore = field(init=False)
    _faults: dict[int, list[Fault]] = field(default_factory=dict)  # to come, of each actor
    trace: list[str] = field(default_factory=list)
    violations: list[tuple[str, str]] = field(default_factory=list)
    snapshots: dict[int, tuple] = field(default_factory=dict)  # manifest, parts, names of objects
    happened: Counter = field(default_factory=Counter)  # faults that met an operation
    encodings: int = 0  # units that went through the encoder

    def __post_init__(self) -> None:
        self.inputs, self.bucket = Inputs(self), Bucket(self)
        for event in sorted((e for e in self.script if isinstance(e, Fault)), key=_when):
            self._faults.setdefault(event.actor, []).append(event)
        self.free = SimulatedStore(self, free=True)
        edits = [e for e in self.script if isinstance(e, Edit)]
        self.scheduler = Scheduler([(e.step, partial(self._edit, e)) for e in edits if e.step])
        for edit in edits:
            if not edit.step:
                self.inputs.write(edit.shard, edit.content)

    @property
    def equal_is_ours(self) -> bool:
        """How the store's client takes a refusal."""
        return ObjectStorage() in self.script

    @property
    def lag(self) -> int:
        """How many steps old every listing is."""
        return sum(event.steps for event in self.script if isinstance(event, Lag))

    @property
    def step(self) -> int:
        """The time."""
        return self.scheduler.step

    @property
    def keep(self) -> int:
        """How many snapshots everybody keeps."""
        if self.scheduler.current is None:
            return 1
        return min(e.keep for e in self.script if isinstance(e, Run | Collect))

    # --- what happens ---

    def play(self) -> World:
        """The script, then one quiet run, and what must be true of it all."""
        for event in self.script:
            if isinstance(event, Run):
                body = partial(embedmill.jobs.run.run, spec_of(event))
                actor = self.scheduler.add(event.number, "run", event.start, body)
                actor.facts["spec"] = event
            elif isinstance(event, Collect):
                body = partial(
                    embedmill.pipeline.snapshot.gc.collect, SimulatedStore(self), event.keep
                )
                self.scheduler.add(event.number, "gc", event.start, body)
        self.scheduler.run()
        if not self.violations:
            for actor in self.scheduler.actors:
                check_end(self, actor)
        if not self.violations:
            self._quiet()
        return self

    def _quiet(self) -> None:
        """All faults are over: one run brings everything up to date, a second does nothing."""
        last = next(
            (e for e in reversed(self.script) if isinstance(e, Run)), Run(1, 0, 0, True, 1, 4)
        )
        self.note("a quiet run")
        for again in (False, True):
            encoded = self.encodings
            try:
                report = embedmill.jobs.run.run(spec_of(last, replace=True, keep=1))
            except BaseException as error:
                self.broken("quiet", f"a quiet run ends with {describe(error)}")
                return
            invariants.check_quiet(self, report)
            if again and self.encodings != encoded:
                self.broken("redone", "a second quiet run encodes again")

    def _edit(self, edit: Edit) -> None:
        self.inputs.write(edit.shard, edit.content)
        self.note(f"shard {edit.shard} {'goes' if edit.content is None else 'is written'}")

    # --- requests of actors ---

    def request(self, verb: str, name: str, act: Callable[..., Any]) -> Any:
        """One request to the store, with whatever goes wrong with it."""
        actor = self._turn(verb, name)
        fault = self._fault(actor, verb)
        kind, steps = (fault.kind, fault.steps or 0) if fault else ("", 0)
        if kind == "kill":
            raise self._killed(actor)
        if kind == "late":
            number = 100 * actor.number + actor.operations
            arrives = partial(self._arrives, verb, name, act)
            network = self.scheduler.add(number, "network", self.step + steps, arrives)
            network.facts.update(began=actor.began, spec=actor.facts.get("spec"))
        if kind in ("late", "lost"):
            raise self._failed(actor, verb, name, f"its request is {kind}")
        if kind == "stop":
            actor.facts["stop"] = self.bucket.create(actor.facts["run"], b"stop")
        if kind == "twice":
            self.note(f"{verb} {name} -> {brief(act())}, and the client asks again", actor)
        steps = steps if kind == "stale" else self.lag * (verb == "list")
        result = act(max(0, self.step - steps)) if steps else act()
        self.note(f"{verb} {name} -> {brief(result)} {kind}", actor)
        if kind == "kill after":
            raise self._killed(actor)
        if kind == "lost answer":
            raise self._failed(actor, verb, name, "its answer is lost")
        return result

    def look(self, verb: str, uri: str, act: Callable[[], Any]) -> Any:
        """One look at the input."""
        if self.scheduler.current is None:
            return act()
        actor = self._turn(verb, uri)
        if self._fault(actor, "look"):
            raise self._killed(actor)
        result = act()
        self.note(f"{verb} {uri} -> {brief(result)}", actor)
        return result

    def _turn(self, verb: str, name: str) -> Actor:
        actor = self.scheduler.current
        if actor.dead or self.scheduler.stopped:
            raise Killed
        if verb == "create":
            actor.facts.setdefault("creates", {})[name] = self.step
        if (pause := self._fault(actor, "come", actor.operations + 1)) is None:
            self.scheduler.turn()
        else:
            self.note(f"{pause.kind}s before {verb} {name}", actor)
            self.scheduler.turn(pause.steps)
        return actor

    def _fault(self, actor: Actor, verb: str, operation: int | None = None) -> Fault | None:
        """What goes wrong with an operation, by default the current one; each fault once."""
        for fault in self._faults.get(actor.number, ()):
            if fault.operation > (operation or actor.operations):
                return None
            if verb in CAN_MEET[fault.kind] and (fault.kind != "stop" or "run" in actor.facts):
                self._faults[actor.number].remove(fault)
                self.happened[fault.kind] += 1
                return fault
        return None

    def _killed(self, actor: Actor) -> Killed:
        actor.dead = True
        self.note("is killed", actor)
        return Killed()

    def _failed(self, actor: Actor, verb: str, name: str, why: str) -> StorageError:
        """What the client says when its retries are used up."""
        actor.facts["failed"] = True
        self.note(f"{verb} {name} fails, {why}", actor)
        return StorageError("STORAGE", f"{ROOT}/{name}", "the store does not answer", "run again")

    def _arrives(self, verb: str, name: str, act: Callable[[], Any]) -> None:
        self.note(f"{verb} {name} -> {brief(act())}, late")

    # --- what the house tells ---

    def run_number(self) -> str:
        """In place of the random part of a run's name."""
        current, word = self.scheduler.current, f"{len(self.bucket.past):06d}"
        if current:
            word = f"{current.number}-{word}"
            current.facts["run"] = f"_embed/log/20261101T000000Z-00000{word}/stop"
        return word

    def begin_unit(self, number: int, plan: Plan, unit: Unit) -> None:
        """A run begins a unit: there may be a second attempt at it elsewhere."""
        actor = self.scheduler.current
        for copy in self.script:
            if isinstance(copy, Copy) and actor and (copy.run, copy.unit) == (actor.number, number):
                start = None if copy.steps is None else self.step + copy.steps
                body = partial(house.encode_unit, plan, unit)
                self.scheduler.add(copy.number, "copy", start, body).facts["began"] = actor.began

    def encoded(self, plan: Plan, unit: Unit) -> None:
        """A unit went through the encoder."""
        self.encodings += 1
        invariants.check_work(self, plan, unit)

    def created(self, name: str) -> None:
        """An object became visible."""
        if name.startswith("_embed/manifest/") and name.endswith(".json"):
            invariants.check_manifest(self, name)

    def deleting(self, name: str) -> None:
        """An object is about to go."""
        invariants.check_delete(self, name)

    # --- what is found ---

    def note(self, what: str, actor: Actor | None = None) -> None:
        """A line of the trace."""
        self.trace.append(
            f"{self.step:4} {f'{actor.name} {actor.number}' if actor else '-':8} {what}"
        )

    def broken(self, kind: str, what: str) -> None:
        """Notes a violation; everybody ends."""
        self.note(f"VIOLATION {kind}: {what}")
        self.violations.append((kind, what))
        self.scheduler.stopped = True


def play(script: Script) -> World:
    """The history of a script."""
    world = World(script)
    house.worlds.append(world)
    try:
        return world.play()
    finally:
        house.worlds.pop()


def spec_of(run: Run, **changes: Any) -> Spec:
    """The spec of a run."""
    facts = SimpleNamespace(**{name: getattr(run, name) for name in run.__slots__} | changes)
    never = {"warn": None, "fail": None}
    return Spec.model_validate(
        {
            "input": {"path": FOLDER, "text": "text"},
            "model": {"name": "simulated", "max_tokens": 16 + 16 * facts.encoding},
            "output": {
                "path": ROOT,
                "replace": facts.replace,
                "keep_snapshots": facts.keep,
                "quality": {"reject_rate": never, "unk_rate": never},
            },
            "run": {"device": "cpu", "runner": "inline", "unit_rows": facts.unit_rows},
        }
    )


def _when(fault: Fault) -> int:
    return fault.operation


def brief(value: Any) -> str:
    """A result in a few words."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return f"{len(value)} names"
    return str(value)
