"""How often a unit was begun: what may have killed its process three times is encoded apart.

An attempt is a small object that is created before the unit is handed out and goes when its part is
there. So it outlives a process that dies of the unit, and the driver too. What is killed from
outside leaves attempts as well: being encoded apart changes no byte of a part.
"""

from __future__ import annotations

import json
import os
import platform
from itertools import count

from embedmill.pipeline import flow
from embedmill.pipeline.batches import Prepared
from embedmill.pipeline.store.output import Store, open_store
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.schemas.manifest import attempt_name, poison_name
from embedmill.schemas.plan import Plan, Unit

MOST = 3  # attempts of a unit that is handed out like any other


def prepare(plan: Plan, unit: Unit, tokenizer: Tokenizer) -> Prepared | Unit:
    """The unit ready to encode; the unit itself if it is to be encoded apart."""
    return flow.prepare(plan, unit, tokenizer) if begin(plan, unit) else unit


def begin(plan: Plan, unit: Unit) -> bool:
    """Records an attempt; False if the unit was begun MOST times already."""
    store, who = open_store(plan.output), f"{platform.node()} {os.getpid()}\n".encode()
    return any(store.create(attempt_name(unit.key, n), who) for n in range(1, MOST + 1))


def end(plan: Plan, unit: Unit) -> None:
    """Removes the attempt of a unit that is committed; gc takes the others, if there are any."""
    open_store(plan.output).delete(attempt_name(unit.key, 1))


def poison_of(store: Store, unit: Unit) -> list[int]:
    """Rows of the unit that are known to kill, rising; whoever looks later finds them all."""
    rows: list[int] = []
    for n in count(1):
        try:
            rows = json.loads(store.read(poison_name(unit.key, n)))["rows"]
        except FileNotFoundError:
            return rows


def note_poison(store: Store, unit: Unit, rows: list[int]) -> list[int]:
    """Records all rows that are known to kill; returns what stands, which others may have noted."""
    known = json.dumps({"rows": sorted(rows)}).encode()
    for n in count(1):
        if store.size(poison_name(unit.key, n)) is None:
            store.create(poison_name(unit.key, n), known)
            return poison_of(store, unit)
