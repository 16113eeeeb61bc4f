"""A sample of committed rows, read from their shards again and encoded by the reference.

The rows are spread evenly over the snapshot, by a fixed seed. A row's text must still give the
input hash that was committed with it, and its vectors must be those of the reference. Rows of
several windows are not compared: transformers has no such thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.jobs.verify.distance import distance, stored_value
from embedmill.pipeline.identity import input_hash
from embedmill.pipeline.load import folder_of, model_of
from embedmill.pipeline.read.unit import read_unit
from embedmill.pipeline.store.output import Store
from embedmill.pipeline.vectors.ranges import ranges_of
from embedmill.schemas.errors import EmbedmillError, StoreAway
from embedmill.schemas.manifest import PartRecord
from embedmill.schemas.plan import Plan, Slice, Unit

SEED = 0


@dataclass(frozen=True, slots=True)
class Picked:
    """One row of the sample: as stored, and its input as it reads now."""

    path: str
    row: int  # in the part
    vectors: dict[str, np.ndarray]  # column -> float64: (D,), of tokens (T, D)
    a: str
    b: str


def check_sample(
    store: Store, plan: Plan, records: list[PartRecord], count: int
) -> tuple[dict[str, Any], list[str]]:
    """{n, min_cosine, max_abs_diff} over the sample, and a line for each kind of problem.

    The difference is of vectors scaled by the norm of the reference's.
    """
    problems: list[str] = []
    picked: list[Picked] = []
    for record, rows in _spread(records, count):
        try:
            picked += _picked(store, plan, record, rows, problems)
        except StoreAway:
            raise
        except (EmbedmillError, pa.ArrowException, OSError, ValueError, KeyError) as error:
            what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            problems.append(f"{store.where(record.path)}: cannot be sampled ({what}); see above")
    found = _compare(store, plan, picked, problems)
    return found, list(dict.fromkeys(problems))


def _spread(records: list[PartRecord], count: int) -> Iterator[tuple[PartRecord, list[int]]]:
    """Parts with the rows of theirs that are in the sample: one of each of `count` equal runs."""
    ends = np.cumsum([record.vectors for record in records])
    total = int(ends[-1])
    count = min(count, total)
    edges = np.linspace(0, total, count + 1).astype(np.int64)
    picks = np.random.default_rng(SEED).integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))
    parts = np.searchsorted(ends, picks, side="right")
    for part in np.unique(parts):
        first = int(ends[part]) - records[part].vectors
        yield records[part], (picks[parts == part] - first).tolist()


def _picked(
    store: Store, plan: Plan, record: PartRecord, rows: list[int], problems: list[str]
) -> Iterator[Picked]:
    """The rows of one part, as stored and as they read now."""
    inputs = _inputs(store, record)
    columns = [plan.id_column, "input_hash", "n_tokens", *(c.name for c in plan.columns)]
    if plan.identity["long_text"] == "window":
        columns += ["char_start", "char_end"]
        with store.open(record.path) as source:
            window = pq.read_table(source, columns=["window"]).column(0).to_numpy()
        inputs = inputs[np.cumsum(window == 0) - 1]
    for row, stored in _stored(store, record.path, rows, columns):
        piece = _slice_of(record, int(inputs[row]))
        where = f"{piece.shard.uri}, row {piece.start}"
        try:
            texts = read_unit(plan, Unit(record.unit_key, (piece,)))
        except StoreAway:
            raise
        except EmbedmillError as error:
            problems.append(f"{str(error).rstrip('.')}; it cannot be compared with its vectors")
            continue
        a, b = texts.a[0], texts.b[0] if texts.b is not None else ""
        now = (texts.rows.column(0)[0].as_py(), input_hash(a.encode(), b.encode()))
        kept = tuple(stored.column(name)[0].as_py() for name in columns[:2])
        if texts.status_R[0] or now != kept:
            problems.append(
                f"{store.where(record.path)}: row {row} has another id or input than {where}; "
                "run into a new output.path"
            )
            continue
        whole = stored.column("n_tokens")[0].as_py() <= plan.model["max_tokens"]
        if "char_end" in columns:
            span = [stored.column(name)[0].as_py() for name in ("char_start", "char_end")]
            whole = span == [0, len(a)]
        if not whole:
            continue
        ranges = ranges_of(plan)
        vectors = {
            column.name: stored_value(stored.column(column.name), column, ranges.get(column.name))
            for column in plan.columns
        }
        yield Picked(record.path, row, vectors, a, b)


def _inputs(store: Store, record: PartRecord) -> np.ndarray:
    """The input row, counted in the unit, of each row of the part: all but the rejects."""
    ok = np.ones(record.rows_in, bool)
    if record.rejects_path:
        data = pa.py_buffer(store.read(record.rejects_path))
        rejects = pa.ipc.open_file(data).read_all().select(["shard", "row"]).to_pylist()
        first = 0
        for piece in record.slices:
            for reject in rejects:
                row = reject["row"] - piece.start
                if reject["shard"] == piece.shard.uri and 0 <= row < piece.rows:
                    ok[first + row] = False
            first += piece.rows
    return np.flatnonzero(ok)


def _slice_of(record: PartRecord, row: int) -> Slice:
    """The slice of that one input row of the unit."""
    for piece in record.slices:
        if row < piece.rows:
            return Slice(piece.shard, piece.start + row, 1)
        row -= piece.rows
    raise ValueError("the part has more rows than its slices")


def _stored(
    store: Store, path: str, rows: list[int], columns: list[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(row, that row of the part)."""
    with store.open(path) as source:
        file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False)
        first = 0
        for batch in file.iter_batches(2048, columns=columns):
            for row in rows:
                if first <= row < first + len(batch):
                    yield row, batch.slice(row - first, 1)
            first += len(batch)


def _compare(store: Store, plan: Plan, picked: list[Picked], problems: list[str]) -> dict[str, Any]:
    """The worst over all rows and columns; problems get the worst of each part and column."""
    if not picked:
        return {"n": 0, "min_cosine": None, "max_abs_diff": None}
    from embedmill.pipeline.encode.reference import Reference

    reference = Reference(
        folder_of(plan),
        max_tokens=plan.model["max_tokens"],
        truncation=plan.identity["truncation"],
        parse_specials=plan.identity["special_tokens_in_text"] == "parse",
        dense=model_of(plan).dense,
    )
    a = [plan.model["prompt"] + row.a for row in picked]
    wanted = reference.encode(a, [row.b for row in picked], plan.columns)
    cosines, diffs, refused = [], [], set()
    ranges = ranges_of(plan)
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for n, row in enumerate(picked):
        for column in plan.columns:
            want_D = wanted[column.name][n].astype(np.float64)
            if not np.isfinite(want_D).all():  # the reference cannot truncate this row
                refused.add(n)
                continue
            range_2D = ranges.get(column.name)
            cosine, diff, over = distance(
                column, row.vectors[column.name], want_D,
                precision=plan.settings.precision, range_2D=range_2D,
            )  # fmt: skip
            cosines.append(cosine)
            diffs.append(diff)
            if over > 1:
                said = f"row {row.row}: {column.name} is {diff:.1e} (cosine {cosine:.6f}) away"
                key = (row.path, column.name)
                worst[key] = max(worst.get(key, (0.0, "")), (over, said))
    for (path, _), (_, said) in worst.items():
        do = "check the machine that made it, and run into a new output.path"
        problems.append(f"{store.where(path)}: {said} from the reference; {do}")
    return {
        "n": len(picked) - len(refused),
        "min_cosine": min(cosines, default=None),
        "max_abs_diff": max(diffs, default=None),
    }
