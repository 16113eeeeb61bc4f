"""What must go from a sink and what must come, so that it holds a snapshot: by keys alone.

Nothing but keys is looked at, 16 bytes a record; beyond one partition's worth they go through files
on local disk, so that memory does not grow with the snapshot.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedmill.pipeline.index.sink import KEY_BYTES

if TYPE_CHECKING:
    import polars as pl

ENTRY = np.dtype([("a", ">u8"), ("b", ">u8"), ("part", "<u4"), ("row", "<u4")])
PARTITION = 1 << 22  # entries that are compared at once
NONE_GONE = np.zeros((0, KEY_BYTES), np.uint8)


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between a sink and a snapshot."""

    gone: np.ndarray  # keys of records to remove, uint8 (n, 16)
    wanted: list[np.ndarray]  # for each part, which of its rows come: bool (R,)
    stands: list[np.ndarray]  # for each part, which of its rows have a record: bool (R,)
    records: int  # that the sink then has
    repeated: int  # rows that equal an earlier one in all: one record stands for both

    @property
    def come(self) -> int:
        """Records to add."""
        return sum(int(wanted_R.sum()) for wanted_R in self.wanted)


def changes(have: Iterable[np.ndarray], want: Iterable[np.ndarray], rows: int) -> Changes:
    """`have`: keys in the sink; `want`: keys of each part, `rows` in all; both uint8 (n, 16)."""
    import polars as pl

    wanted: list[np.ndarray] = []
    stands: list[np.ndarray] = []
    gone, records = [NONE_GONE], 0
    with tempfile.TemporaryDirectory(prefix="embedmill-") as folder:
        count = 1
        while count * PARTITION < rows:
            count *= 2
        mine = _Partitions(Path(folder) / "have", count)
        for keys in have:
            mine.add(_entries(keys, 0))
        theirs = _Partitions(Path(folder) / "want", count)
        for part, keys in enumerate(want):
            theirs.add(_entries(keys, part))
            wanted.append(np.zeros(len(keys), bool))
            stands.append(np.zeros(len(keys), bool))
        for here, there in zip(mine, theirs, strict=True):
            has = _frame(here).group_by("a", "b").len()
            needs = _frame(there).sort("part", "row").unique(["a", "b"], keep="first")
            once = has.filter(pl.col("len") == 1)  # what is there twice goes, and comes once
            new = needs.join(once, on=["a", "b"], how="anti")
            old = has.join(needs.join(once, on=["a", "b"], how="semi"), on=["a", "b"], how="anti")
            _mark(wanted, new)
            _mark(stands, needs)
            gone.append(_keys(old))
            records += len(needs)
    repeated = sum(map(len, wanted)) - records
    return Changes(np.concatenate(gone), wanted, stands, records, repeated)


def _mark(masks: list[np.ndarray], rows: pl.DataFrame) -> None:
    for (part,), some in rows.group_by("part"):
        masks[part][some["row"].to_numpy()] = True


class _Partitions:
    """Entries by the first bits of their key: one list in memory, or several files."""

    def __init__(self, stem: Path, count: int) -> None:
        self._stem, self._count = stem, count
        self._held: list[np.ndarray] = []

    def add(self, entries: np.ndarray) -> None:
        if self._count == 1:
            self._held.append(entries)
            return
        which = entries["a"] >> np.uint64(64 - self._count.bit_length() + 1)
        for n in np.unique(which).tolist():
            with open(f"{self._stem}-{n}", "ab") as file:
                file.write(entries[which == n].tobytes())

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._count == 1:
            yield np.concatenate([np.zeros(0, ENTRY), *self._held])
            return
        for n in range(self._count):
            path = Path(f"{self._stem}-{n}")
            yield np.fromfile(path, ENTRY) if path.exists() else np.zeros(0, ENTRY)


def _entries(keys: np.ndarray, part: int) -> np.ndarray:
    entries = np.zeros(len(keys), ENTRY)
    entries["a"], entries["b"] = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2).T
    entries["part"], entries["row"] = part, np.arange(len(keys))
    return entries


def _frame(entries: np.ndarray) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame({n: entries[n].astype(ENTRY[n].newbyteorder("=")) for n in ENTRY.names})


def _keys(frame: pl.DataFrame) -> np.ndarray:
    pairs = frame.select("a", "b").to_numpy().astype(">u8")
    return np.ascontiguousarray(pairs).view(np.uint8).reshape(-1, KEY_BYTES)
