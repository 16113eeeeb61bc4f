"""A history as data: who runs when, what happens to the input, and what goes wrong.

A script is drawn from a seed, and it can be made smaller: leave an event out, and see whether what
was wrong is still wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

SHARDS, CONTENTS = 4, 3
SPAN = 260  # steps in which things begin: about three runs one after the other

# What can happen to one operation of an actor, and how often.
FAULTS = {
    "pause": 10,  # it comes some steps later
    "wait": 3,  # it comes when everybody else is done: a zombie
    "kill": 4,  # the process dies before it
    "kill after": 4,  # it is done, and the process does not learn of it
    "lost": 2,  # the request is lost, the client gives up
    "lost answer": 2,  # it is done, the client gives up
    "twice": 3,  # the answer is lost, and the client's own retry asks again
    "late": 2,  # the client gives up, and later the request arrives
    "stale": 4,  # a listing as it was some time ago
    "stop": 1,  # somebody asks the run to stop
}


@dataclass(frozen=True, slots=True)
class Run:
    """`embedmill run` with one of two encodings."""

    number: int
    start: int
    encoding: int
    replace: bool
    keep: int
    unit_rows: int


@dataclass(frozen=True, slots=True)
class Collect:
    """`embedmill gc`."""

    number: int
    start: int
    keep: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A second attempt at one unit of a run, by a process that outlives the run."""

    number: int
    run: int
    unit: int
    steps: int | None  # it begins so much later; None: when everybody else is done


@dataclass(frozen=True, slots=True)
class Edit:
    """A shard gets new content, after so many steps; None: it goes."""

    step: int
    shard: int
    content: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something happens to an actor's first operation from the n-th on that it can happen to."""

    actor: int
    operation: int
    kind: str
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class ObjectStorage:
    """The store is one whose client takes equal bytes for its own."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Every listing is as the store was so many steps ago."""

    steps: int


Event = Run | Collect | Copy | Edit | Fault | ObjectStorage | Lag
Script = tuple[Event, ...]


def draw(seed: int) -> Script:
    """The script of a seed."""
    rng = random.Random(seed)
    events: list[Event] = [ObjectStorage()] if rng.random() < 0.4 else []
    if rng.random() < 0.2:
        events.append(Lag(rng.choice((10, 40, 120))))
    two = rng.random() < 0.4  # encodings
    keep = rng.choice((1, 1, 1, 2, 3))
    rows = rng.choice((3, 4, 6))
    crowd = rng.choice((20, SPAN, 2 * SPAN))  # all at once, or one after the other
    numbers = iter(range(1, 100))
    for shard in range(SHARDS):
        if rng.random() < 0.7 or shard == 0:
            events.append(Edit(0, shard, rng.randrange(CONTENTS)))
    runs = [
        Run(
            number=next(numbers),
            start=0 if n == 0 else rng.randrange(crowd),
            encoding=rng.randrange(2) if two else 0,
            replace=two and rng.random() < 0.8,
            keep=keep if rng.random() < 0.8 else rng.randint(1, 3),
            unit_rows=rows if rng.random() < 0.8 else rng.randint(2, 7),
        )
        for n in range(rng.choice((1, 2, 2, 3, 3, 4)))
    ]
    events += runs
    for _ in range(rng.choice((0, 0, 1, 2))):
        events.append(Collect(next(numbers), rng.randrange(2 * SPAN), rng.randint(1, 2)))
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        steps = rng.choice((None, rng.randrange(60)))
        events.append(Copy(next(numbers), rng.choice(runs).number, rng.randrange(3), steps))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 5))):
        content = rng.choice((None, *range(CONTENTS)))
        events.append(Edit(rng.randrange(1, crowd + 100), rng.randrange(SHARDS), content))
    actors = [event.number for event in events if isinstance(event, Run | Collect | Copy)]
    for _ in range(rng.choice((0, 1, 2, 3, 4, 6, 8))):
        events.append(_fault(rng, rng.choice(actors)))
    return tuple(events)


def _fault(rng: random.Random, actor: int) -> Fault:
    kind = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
    steps = None
    if kind in ("pause", "late", "stale"):
        steps = rng.choice((1, 3, 10, 40, 120, 240)) + rng.randrange(5)
    # A third while the plan is made: few operations, and much that can go wrong.
    return Fault(actor, rng.randrange(1, rng.choice((6, 20, 90))), kind, steps)


def shrink(script: Script, fails: Callable[[Script], bool], attempts: int = 400) -> Script:
    """A smaller script that still fails: no event of it can be left out, no pause made short."""
    changed = True
    while changed and attempts > 0:
        changed = False
        for event in sorted(script, key=_weight):
            shorter: list[Script] = [tuple(e for e in script if e is not event)]
            if isinstance(event, Fault) and event.steps and event.steps > 1:
                less = replace(event, steps=event.steps // 2)
                shorter.append(tuple(less if e is event else e for e in script))
            for smaller in shorter:
                attempts -= 1
                if attempts > 0 and fails(smaller):
                    script, changed = smaller, True
                    break
    return script


def _weight(event: Event) -> int:
    """Whole actors first: with them goes much at once."""
    return (Run, Collect, Copy, Edit, ObjectStorage, Lag, Fault).index(type(event))
