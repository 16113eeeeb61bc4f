"""Seeds played one after the other, and a failing one told in as few lines as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.simulation.script import Script, draw, shrink
from tests.simulation.world import World, play


@dataclass(slots=True)
class Played:
    """What so many histories were made of."""

    schedules: int = 0
    operations: int = 0
    manifests: int = 0
    ends: Counter = field(default_factory=Counter)  # how actors ended
    happened: Counter = field(default_factory=Counter)  # faults that met an operation
    failed: list[int] = field(default_factory=list)  # seeds

    def add(self, seed: int, world: World) -> None:
        """Counts a history."""
        self.schedules += 1
        self.operations += world.step
        self.manifests += len(world.snapshots)
        for actor in world.scheduler.actors:
            error = actor.error
            code = getattr(error, "code", type(error).__name__) if error else "ok"
            self.ends[f"{actor.name} {code}"] += 1
        self.happened += world.happened
        if world.violations:
            self.failed.append(seed)

    def merge(self, other: Played) -> None:
        """Adds what was counted elsewhere."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        lines = [
            f"{self.schedules:,} schedules, {self.operations:,} operations, "
            f"{self.manifests:,} manifests, {len(self.failed)} violations"
        ]
        for title, counts in (("faults", self.happened), ("ends", self.ends)):
            told = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
            lines.append(f"{title}: {told}")
        return "\n".join(lines)


def played(seeds: Iterable[int]) -> Played:
    """Plays all of them."""
    total = Played()
    for seed in seeds:
        total.add(seed, play(draw(seed)))
    return total


def smallest(script: Script) -> Script:
    """The least of a failing script that fails in the same way."""
    kind = play(script).violations[0][0]

    def fails(smaller: Script) -> bool:
        return any(kind == found for found, _ in play(smaller).violations)

    return shrink(script, fails)


def played_apart(seeds: Iterable[int]) -> Played:
    """The same in a process of its own. It is here because a spawned one finds no `__main__`."""
    from tests.simulation.house import furnished

    with furnished():
        return played(seeds)


def explain(seed: int) -> str:
    """A failing seed: its smallest script and what happened, one operation a line."""
    script = smallest(draw(seed))
    events = "\n".join(f"  {event}" for event in script)
    return f"seed {seed}, as small as it gets:\n{events}\n" + "\n".join(play(script).trace)
