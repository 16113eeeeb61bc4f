"""A sorted index from input hash to the row that has it, over the parts of one snapshot.

24 bytes a row: hash, part, row of the part. Built once for a plan, read by every worker, held by
none: an object has up to SEGMENT entries, then its marks, the first half of the hash of every
BLOCK-th one. Whoever looks for some hashes reads the marks, then only the blocks that may have
them. Neither building nor finding takes memory that grows with the snapshot. I inputs,
E entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.pipeline.store.output import Store, each

ENTRY = np.dtype([("a", "<u8"), ("b", "<u8"), ("part", "<u4"), ("row", "<u4")])
MARK = np.dtype("<u8")
SEGMENT = 1 << 22  # entries of an object, and of one sort: 96 MiB
BLOCK = 256  # entries from mark to mark: 6 KiB
NEAR = 10  # blocks: what lies so near is read in one request
AT_ONCE = 1 << 18  # entries looked through at once
PARTS_AT_ONCE = 16

Segment = tuple[str, int]  # an object's name and how many entries it has


def entries_of(store: Store, paths: list[str], windows: bool) -> Iterator[np.ndarray]:
    """The entries (ENTRY) of each part; of a row with several windows the first is meant.

    A part that is gone or cannot be read has none.
    """
    for first in range(0, len(paths), PARTS_AT_ONCE):
        some = range(first, min(first + PARTS_AT_ONCE, len(paths)))
        yield from each(store, lambda n: _entries(store, n, paths[n], windows), some)


def as_halves(hashes: Iterable[bytes]) -> np.ndarray:
    """Input hashes as (I, 2) uint64."""
    return np.frombuffer(b"".join(hashes), MARK).reshape(-1, 2)


def write_index(store: Store, stem: str, entries: Iterable[np.ndarray], rows: int) -> list[Segment]:
    """Sorts all entries into objects by the first bits of their hash; of equal hashes the first.

    Beyond one segment's worth of `rows` it sorts runs, stores them, and puts each segment together
    from a slice of each.
    """
    count = 1
    while count * SEGMENT < rows:
        count *= 2
    if count == 1:
        return [_put(store, stem, _sorted(list(entries)))]
    starts = np.arange(1, count, dtype=MARK) << np.uint64(64 - count.bit_length() + 1)
    runs = []
    for chunk in _chunks(entries):
        run = _sorted(chunk)
        edges = np.searchsorted(run["a"], starts)
        runs.append((_put(store, stem, run)[0], [0, *edges.tolist(), len(run)]))
    segments = []
    for n in range(count):
        slices = (_read(store, name, edges[n], edges[n + 1]) for name, edges in runs)
        segments.append(_put(store, stem, _sorted(list(slices))))
    for name in {name for name, _ in runs} - {name for name, _ in segments}:
        store.delete(name)
    return segments


def find(store: Store, segments: list[Segment], halves_I2: np.ndarray) -> np.ndarray:
    """(input, part, row) of every input that has an entry, int64 (N, 3), by part and row."""
    import polars as pl

    a_I = np.unique(halves_I2[:, 0])
    near = [_having(entries, a_I) for entries in _candidates(store, segments, a_I)]
    entries = np.concatenate([np.zeros(0, ENTRY), *near])
    wanted = pl.DataFrame({"a": halves_I2[:, 0], "b": halves_I2[:, 1]}).with_row_index("input")
    found = wanted.join(
        pl.DataFrame({name: entries[name] for name in ENTRY.names}), on=["a", "b"], how="inner"
    ).sort("part", "row")
    return found.select(pl.col("input", "part", "row").cast(pl.Int64)).to_numpy()


def known(store: Store, paths: list[str], windows: bool, halves_I2: np.ndarray) -> np.ndarray:
    """Which of the inputs the parts have, bool (I,); reads all their hashes and keeps none."""
    import polars as pl

    wanted = pl.DataFrame({"a": halves_I2[:, 0], "b": halves_I2[:, 1]}).with_row_index("input")
    known_I = np.zeros(len(halves_I2), bool)
    for entries in entries_of(store, paths, windows):
        there = pl.DataFrame({name: entries[name] for name in ("a", "b")})
        known_I[wanted.join(there, on=["a", "b"], how="semi")["input"].to_numpy()] = True
    return known_I


def _entries(store: Store, number: int, path: str, windows: bool) -> np.ndarray:
    columns = ["input_hash", "window"] if windows else ["input_hash"]
    try:
        with store.open(path) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False)
            table = file.read(columns)
    except (pa.ArrowException, OSError):
        return np.zeros(0, ENTRY)
    halves = [
        np.frombuffer(chunk.buffers()[1], MARK, 2 * len(chunk), 16 * chunk.offset).reshape(-1, 2)
        for chunk in table.column("input_hash").chunks
    ]
    entries = np.zeros(len(table), ENTRY)
    if halves:
        entries["a"], entries["b"] = np.concatenate(halves).T
    entries["part"], entries["row"] = number, np.arange(len(table))
    return entries[table.column("window").to_numpy() == 0] if windows else entries


def _chunks(entries: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The same in lists of one segment's worth."""
    held: list[np.ndarray] = []
    for some in entries:
        held.append(some)
        if sum(map(len, held)) >= SEGMENT:
            yield held
            held = []
    if held:
        yield held


def _sorted(pieces: list[np.ndarray]) -> np.ndarray:
    """By hash; the sort is stable, so of equal ones the first of the earliest part stays."""
    entries = np.concatenate([np.zeros(0, ENTRY), *pieces])
    pieces.clear()
    entries = entries[np.lexsort((entries["b"], entries["a"]))]
    again = (entries["a"][1:] == entries["a"][:-1]) & (entries["b"][1:] == entries["b"][:-1])
    return entries[np.append(True, ~again)] if again.any() else entries


def _put(store: Store, stem: str, entries: np.ndarray) -> Segment:
    """Named by its content: what another driver of the plan has written is as good."""
    marks = np.ascontiguousarray(entries["a"][::BLOCK])
    data = np.concatenate([entries.view(np.uint8), marks.view(np.uint8)])
    name = f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}"
    store.create(name, pa.py_buffer(data))
    return name, len(entries)


def _read(store: Store, name: str, first: int, last: int) -> np.ndarray:
    with store.open(name) as file:
        data = file.read_at((last - first) * ENTRY.itemsize, first * ENTRY.itemsize)
    return np.frombuffer(data, ENTRY)


def _candidates(store: Store, segments: list[Segment], a_I: np.ndarray) -> Iterator[np.ndarray]:
    """Entries among which those of the rising first halves are, rising too, some at once."""
    held: list[tuple[str, int, int]] = []
    entries = 0
    for name, first, last in _spans(store, segments, a_I):
        held.append((name, first, last))
        entries += last - first
        if entries >= AT_ONCE:
            yield np.concatenate(each(store, lambda span: _read(store, *span), held))
            held, entries = [], 0
    if held:
        yield np.concatenate(each(store, lambda span: _read(store, *span), held))


def _having(entries: np.ndarray, a_I: np.ndarray) -> np.ndarray:
    """Those of sorted entries that have one of the first halves."""
    a_E = np.ascontiguousarray(entries["a"])
    first_I = np.searchsorted(a_E, a_I, "left")
    count_I = np.searchsorted(a_E, a_I, "right") - first_I
    before_I = np.cumsum(count_I) - count_I
    return entries[np.repeat(first_I - before_I, count_I) + np.arange(count_I.sum())]


def _spans(
    store: Store, segments: list[Segment], a_I: np.ndarray
) -> Iterator[tuple[str, int, int]]:
    """Entries to read: object, from, to. They are the blocks that may have the hashes."""
    shift = np.uint64(64 - len(segments).bit_length() + 1)
    segment_I = a_I >> shift if len(segments) > 1 else np.zeros(len(a_I), MARK)
    for number, (name, count) in enumerate(segments):
        mine = a_I[segment_I == number]
        if not len(mine) or not count:
            continue
        with store.open(name) as file:
            data = file.read_at(MARK.itemsize * -(-count // BLOCK), count * ENTRY.itemsize)
        for low, high in _blocks(np.frombuffer(data, MARK), mine):
            for first in range(low * BLOCK, min(high * BLOCK, count), AT_ONCE):
                yield name, first, min(first + AT_ONCE, high * BLOCK, count)


def _blocks(marks: np.ndarray, a_I: np.ndarray) -> Iterator[tuple[int, int]]:
    """Blocks that may have the hashes, from and to; those that lie near in one."""
    low_I = np.maximum(np.searchsorted(marks, a_I, "left") - 1, 0)
    high_I = np.searchsorted(marks, a_I, "right")
    low_I, high_I = low_I[high_I > 0], high_I[high_I > 0]
    if len(low_I):
        apart = np.flatnonzero(low_I[1:] > high_I[:-1] + NEAR) + 1
        begins, ends = low_I[np.append(0, apart)], high_I[np.append(apart - 1, -1)]
        yield from zip(begins.tolist(), ends.tolist(), strict=True)
