"""A unit's packs through the encoder, the poolings and the guard: one value a column and sequence.

The second half of the corridor, used by `flow.encode` alone. Shapes: see batches.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedmill.pipeline.batches import Pack, Prepared
from embedmill.pipeline.tokens.windows import mean_of_windows
from embedmill.pipeline.vectors.arrow import as_arrow
from embedmill.pipeline.vectors.ranges import ranges_of
from embedmill.schemas.columns import vector_type
from embedmill.schemas.plan import Plan, VectorColumn

if TYPE_CHECKING:
    from embedmill.pipeline.contracts import Loaded
    from embedmill.pipeline.encode.transfer import Landing

# Packs that a device has before the values of the first are fetched: it shall never wait for us.
AHEAD = 3
Values = dict[tuple[str, str], Any]  # (column, what): of one pack, by sequence; tokens by token


@dataclass(slots=True)
class Vectors:
    """What the encoder made of a unit's sequences."""

    arrays: dict[str, pa.Array]  # column -> its values, S
    good_S: np.ndarray  # bool: which sequences may be stored
    clipped: dict[str, tuple[int, int]]  # int8 columns: values outside the range, and all
    norms: tuple[float, float] = (0.0, 0.0)  # of the first vector column: their sum, and of squares
    collapsed: int = 0  # sequences of other ids whose first vector another one has too


@dataclass(slots=True)
class _Tally:
    """The values of a unit as they land."""

    plan: Plan
    good_S: np.ndarray
    arrays: dict[str, list[pa.Array]] = field(init=False)
    clipped: dict[str, tuple[int, int]] = field(init=False)
    norms: list[np.ndarray] = field(default_factory=list)
    seen: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arrays = {column.name: [] for column in self.plan.columns}
        self.clipped = {c.name: (0, 0) for c in self.plan.columns if c.kind == "int8"}

    def add(self, values: Values, cu_S1: np.ndarray, here: slice) -> None:
        """The values of the sequences `here`."""
        for column in self.plan.columns:
            found = {what: array for (name, what), array in values.items() if name == column.name}
            self.good_S[here] &= ~found["bad"]
            self.arrays[column.name].append(as_arrow(column, found["stored"], cu_S1))
            if "norm" in found:
                self.norms.append(found["norm"].astype(np.float64))
                self.seen.append(found.get("seen", found["stored"]))
            if "outside" in found:
                before, of = self.clipped[column.name]
                outside = before + int(found["outside"].sum())
                self.clipped[column.name] = outside, of + found["stored"].size

    def vectors(self, distinct: int) -> Vectors:
        """All of it; `distinct`: how many sequences have ids of their own."""
        whole = {
            c.name: pa.chunked_array(self.arrays[c.name], vector_type(c)).combine_chunks()
            for c in self.plan.columns
        }
        if not self.norms:
            return Vectors(whole, self.good_S, self.clipped)
        norms_S = np.concatenate(self.norms)[self.good_S]
        norms = float(norms_S.sum()), float((norms_S**2).sum())
        mean = self.plan.identity["long_text"] == "window_mean"  # windows share a text's vector
        collapsed = 0 if mean else distinct - _distinct_rows(self.seen)
        return Vectors(whole, self.good_S, self.clipped, norms, collapsed)


def unit_vectors(plan: Plan, loaded: Loaded | None, prepared: Prepared) -> Vectors:
    """Runs the packs and finishes every column; without packs there need be no encoder.

    The guard looks at what the model gave, before a byte or a bit hides that it was not finite.
    """
    tally = _Tally(plan, np.ones(len(prepared.sequences.lengths_S), bool))
    if not len(tally.good_S):
        return tally.vectors(0)
    done, pooled = 0, dict[str, list[np.ndarray]]()
    for pack, values in _landed(plan, loaded, prepared.packs()):
        here = slice(done, done := done + len(pack.second_S))
        if plan.identity["long_text"] == "window_mean":
            for column in plan.columns:
                pooled.setdefault(column.name, []).append(values[column.name, "pooled"])
        else:
            tally.add(values, pack.cu_S1, here)
    if pooled:
        tally.add(_of_windows(plan, prepared, pooled), np.arange(done + 1), slice(None))
    return tally.vectors(_distinct_ids(prepared))


def _landed(
    plan: Plan, loaded: Loaded, packs: Iterator[Pack]
) -> Iterator[tuple[Pack, dict[tuple[str, str], np.ndarray]]]:
    """Each pack, or in place of it smaller ones, with its values on the host, in order.

    Units of several threads take turns: if their packs came by turns they would end together, and
    the device would wait while all their tables are put together.
    """
    from embedmill.pipeline.encode.memory import within_memory

    flying: deque[tuple[Pack, Landing]] = deque()
    with loaded.turn:
        for pack in packs:
            flying += within_memory(loaded, pack, lambda part: _take_off(plan, loaded, part))
            while len(flying) > AHEAD:
                yield _land(plan, loaded, *flying.popleft())
    while flying:
        yield _land(plan, loaded, *flying.popleft())


def _take_off(plan: Plan, loaded: Loaded, pack: Pack) -> Landing:
    """Lets the device encode, pool and finish a pack; does not wait for it."""
    from embedmill.pipeline.encode.transfer import Landing
    from embedmill.pipeline.vectors.pool import faulty, pooled

    hidden, values, ranges = loaded.encoder.encode(pack), Values(), ranges_of(plan)
    for column in plan.columns:
        found = pooled(hidden, pack.cu_S1, column, loaded)
        if plan.identity["long_text"] == "window_mean":
            named = {"pooled": found, "bad": faulty(found, normalize=False)}
        else:
            named = _finished(plan, column, found, hidden.cu_S1, ranges.get(column.name))
        values |= {(column.name, what): value for what, value in named.items()}
    return Landing(values)


def _land(
    plan: Plan, loaded: Loaded, pack: Pack, landing: Landing
) -> tuple[Pack, dict[tuple[str, str], np.ndarray]]:
    """The values of a pack; those of a faulty sequence come from fp32, alone, on the same device.

    A half-precision format overflows now and then where fp32 does not; only what fp32 cannot
    encode either is the model's own fault, and becomes a reject.
    """
    values = landing.arrays()
    bad_S = np.any([array for (_, what), array in values.items() if what == "bad"], axis=0)
    for s in np.flatnonzero(bad_S) if plan.settings.precision != "exact" else ():
        again = _take_off(plan, loaded.exact(), pack.part(s, s + 1)).arrays()
        for column in plan.columns:
            for what in (what for name, what in values if name == column.name):
                by_token = column.kind == "tokens" and what in ("stored", "pooled")
                at = slice(*pack.cu_S1[s : s + 2]) if by_token else slice(s, s + 1)
                values[column.name, what][at] = again[column.name, what]
    return pack, values


def _finished(
    plan: Plan, column: VectorColumn, pooled: Any, cu_S1: Any, range_2D: np.ndarray | None
) -> dict[str, Any]:
    """What is kept of a column's pooled values: as stored, and what guards and gates ask for."""
    from embedmill.pipeline.vectors.pool import faults, finish
    from embedmill.pipeline.vectors.quantize import quantize

    finished = finish(pooled, column)
    stored, outside_S = quantize(finished, column, range_2D)
    found = {"stored": stored, "bad": faults(finished, cu_S1, column)}
    if outside_S is not None:
        found["outside"] = outside_S
    watched = next((c for c in plan.columns if c.source == "encoder" and c.kind != "tokens"), None)
    if column is watched:
        found["norm"] = pooled.norm(dim=1)
        if stored.dtype != pooled.dtype:  # codes collapse where vectors do not
            found["seen"] = finished.float()
    return found


def _of_windows(plan: Plan, prepared: Prepared, pooled: dict[str, list[np.ndarray]]) -> Values:
    """The finished values of every sequence, each window with the mean over those of its text."""
    from embedmill.pipeline.encode.transfer import Landing, to_device

    values, ranges = Values(), ranges_of(plan)
    for column in plan.columns:
        mean_SD = mean_of_windows(np.concatenate(pooled[column.name]), prepared.sequences.windows)
        means, cu_S1 = to_device(mean_SD, plan.settings.device), np.arange(len(mean_SD) + 1)
        named = _finished(plan, column, means, cu_S1, ranges.get(column.name))
        values |= {(column.name, what): value for what, value in named.items()}
    return Landing(values).arrays()


def measured(prepared: Prepared, vectors: Vectors, used_S: np.ndarray) -> dict[str, float]:
    """What the quality gates ask of what was encoded: schemas.manifest.MEASURED."""
    return {
        "sequences": len(used_S),
        "tokens_encoded": int(prepared.sequences.lengths_S[used_S].sum()),
        "tokens_unknown": prepared.unknown,
        "collapsed": vectors.collapsed,
        "norm_sum": vectors.norms[0],
        "norm_squares": vectors.norms[1],
    }


def _distinct_ids(prepared: Prepared) -> int:
    """How many sequences have ids of their own: "Lemon" and "lemon" may be one and the same."""
    ids_T, cu_S1 = prepared.sequences.ids_T, prepared.sequences.cu_S1
    buffers = [None, pa.py_buffer(cu_S1 * ids_T.itemsize), pa.py_buffer(ids_T)]
    ids_S = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(cu_S1) - 1, buffers)
    return pc.count_distinct(ids_S).as_py()


def _distinct_rows(parts: list[np.ndarray]) -> int:
    """How many rows (S, D) of fp32 differ in a bit. Most do so in their first two values."""
    begins_S2 = np.concatenate([np.zeros((0, 2), np.float32), *(_begins(part) for part in parts)])
    begins_S = begins_S2.view(np.uint64)[:, 0]
    _, group_S, count = np.unique(begins_S, return_inverse=True, return_counts=True)
    alike_S, first, seen = count[group_S] > 1, 0, set[bytes]()
    for part in parts:
        alike = alike_S[first : first + len(part)]
        seen.update(row.tobytes() for row in part[alike])
        first += len(part)
    return len(seen) + int((~alike_S).sum())


def _begins(rows_SD: np.ndarray) -> np.ndarray:
    return rows_SD[:, :2] if rows_SD.shape[1] > 1 else np.repeat(rows_SD, 2, axis=1)
