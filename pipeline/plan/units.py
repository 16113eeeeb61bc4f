"""Cuts shards into units. A pure function: equal shards are always cut alike.

A shard of `unit_rows` rows or more is cut alone from its own row 0, at row groups; a row group
above the cap is cut inside. Smaller shards are grouped, and where a group ends depends on the
shard itself (a hash of its URI), so that one new shard does not shift the groups of all others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from embedmill.schemas.plan import Shard, Slice


def cut(shards: list[tuple[Shard, tuple[int, ...]]], unit_rows: int) -> Iterator[tuple[Slice, ...]]:
    """Yields the slices of each unit; `shards` are (shard, rows of its row groups), by URI.

    Every row of every shard is in one slice; a shard without rows is in a group, with 0 rows.
    """
    group: list[Slice] = []
    rows = 0
    for shard, row_groups in sorted(shards, key=lambda item: item[0].uri):
        if shard.rows >= unit_rows:
            yield from _cut_large(shard, row_groups, unit_rows)
            continue
        if rows + shard.rows > unit_rows and group:
            yield tuple(group)
            group, rows = [], 0
        group.append(Slice(shard, 0, shard.rows))
        rows += shard.rows
        if _ends_group(shard, unit_rows):
            yield tuple(group)
            group, rows = [], 0
    if group:
        yield tuple(group)


def _cut_large(shard: Shard, row_groups: tuple[int, ...], cap: int) -> Iterator[tuple[Slice, ...]]:
    start = taken = 0
    for rows in row_groups:
        if taken and taken + rows > cap:
            yield (Slice(shard, start, taken),)
            start, taken = start + taken, 0
        taken += rows
        while taken > cap:
            yield (Slice(shard, start, cap),)
            start, taken = start + cap, taken - cap
    if taken:
        yield (Slice(shard, start, taken),)


def _ends_group(shard: Shard, cap: int) -> bool:
    """True with a chance of 2 * rows / cap, decided by the URI: groups of about half the cap."""
    chance = int.from_bytes(hashlib.sha256(shard.uri.encode()).digest()[:8]) / 2**64
    return chance < 2 * shard.rows / cap
