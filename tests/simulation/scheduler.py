"""Runs several actors one at a time, and changes between them only where it is told to.

Each actor is a greenlet, a stack of its own in this thread, and gives way at its operations alone;
so equal scripts give equal histories. The first actor that may go on goes on; what makes actors
overlap are pauses, which are data of the script: whatever order the operations can have, some set
of pauses gives it, and leaving pauses out makes a history simpler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from greenlet import greenlet


class Killed(BaseException):
    """The actor's process is gone: it must not touch anything any more."""


@dataclass(slots=True)
class Actor:
    """One simulated process."""

    number: int
    name: str
    body: Callable[[], Any]
    ready: int | None  # from this step on it may go on; None: only once nobody else can
    began: int = 0
    ended: int = 0
    operations: int = 0
    dead: bool = False
    done: bool = False
    result: Any = None
    error: BaseException | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    stack: greenlet | None = None


class Scheduler:
    """The clock of a history: one step an operation."""

    def __init__(self, timed: Iterable[tuple[int, Callable[[], None]]] = ()) -> None:
        """`timed`: what happens by itself, and after which step."""
        self.step = 0
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self.stopped = False  # a violation was found: everybody ends
        self._timed = sorted(timed, key=lambda item: item[0])
        self._main = greenlet.getcurrent()

    def add(self, number: int, name: str, start: int | None, body: Callable[[], Any]) -> Actor:
        """An actor that begins at a step (None: when nobody else can go on)."""
        actor = Actor(number, name, body, start)
        actor.stack = greenlet(lambda: self._live(actor), self._main)
        self.actors.append(actor)
        return actor

    def run(self) -> None:
        """Returns when all actors have ended and everything timed has happened."""
        while (following := self._next()) is not None:
            self.current = following
            following.stack.switch()
        self.current = None
        self._fire(None)

    def turn(self, steps: int | None = 0) -> None:
        """The current actor's next operation; others may go first for so many steps.

        None: until all others have ended. Raises Killed in an actor that is not to go on.
        """
        actor = self.current
        actor.operations += 1
        self.step += 1
        self._fire(self.step)
        actor.ready = None if steps is None else self.step + steps
        if self._next() is not actor:
            self._main.switch()
        if actor.dead or self.stopped:
            raise Killed

    def _live(self, actor: Actor) -> None:
        actor.began = self.step
        try:
            actor.result = actor.body()
        except BaseException as error:
            actor.error = error
        actor.done, actor.ended = True, self.step

    def _next(self) -> Actor | None:
        """The first actor that may go on; time passes where all of them wait."""
        live = [actor for actor in self.actors if not actor.done]
        waiting = [actor.ready for actor in live if actor.ready is not None]
        if not waiting:
            if live:
                live[0].ready = self.step
            return live[0] if live else None
        if min(waiting) > self.step:
            self.step = min(waiting)
            self._fire(self.step)
        return next(a for a in live if a.ready is not None and a.ready <= self.step)

    def _fire(self, step: int | None) -> None:
        while self._timed and (step is None or self._timed[0][0] <= step):
            self._timed.pop(0)[1]()
