"""Whether a store keeps the promise that everything rests on: of several creations one wins.

Some stores ignore the condition and replace what is there; others check it first and write then,
which only a race shows. Names are of this run alone, so nothing is learnt from what others do.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from embedmill.schemas.errors import StorageError

RACES, RACERS = 3, 8
SAID = {
    "none": "replaces an object that is there when it should refuse",
    "advisory": "lets several writers at once create one object",
}


class Creates(Protocol):
    """What is proved of a store, and what clears up behind the proof."""

    uri: str

    def create(self, name: str, data: bytes) -> bool:
        """Creates an object; False if there is one of this name."""
        ...

    def delete(self, name: str) -> None:
        """Deletes an object, if it is there."""
        ...


def prove(store: Creates, single_writer: bool, advice: str = "see docs/stores.md") -> str:
    """`atomic`; StorageError for `advisory` and `none`, unless one writer at a time is promised."""
    stem = f"_embed/probe-{uuid.uuid4().hex}"
    names = [f"{stem}-{n}" for n in range(1 + RACES)]
    try:
        verdict = _verdict(store.create, names)
    finally:
        with contextlib.suppress(StorageError):  # what is wrong is said by what raised before
            for name in names:
                store.delete(name)
    if verdict == "atomic" or single_writer:
        return verdict
    do = f"use another store, or promise one run at a time: output.single_writer; {advice}"
    raise StorageError("STORE_LIES", store.uri, f"{SAID[verdict]} ({verdict})", do)


def _verdict(create: Callable[[str, bytes], bool], names: list[str]) -> str:
    if not create(names[0], b"first") or create(names[0], b"again"):
        return "none"
    barrier = threading.Barrier(RACES * RACERS)

    def race(racer: int) -> bool:
        barrier.wait()
        return create(names[1 + racer % RACES], b"racer %d" % racer)

    with ThreadPoolExecutor(RACES * RACERS) as pool:
        won = list(pool.map(race, range(RACES * RACERS)))
    return "atomic" if all(sum(won[n::RACES]) == 1 for n in range(RACES)) else "advisory"
