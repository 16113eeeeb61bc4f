"""What storage holds: part records, the manifest and their names.

data/FFFFFFFFFFFF/UNITKEY-gNNNNNN.parquet     parts of fingerprint F…, nothing else, ever
_embed/plan/NNNNNN-HASH.json, .arrow          frozen plans and their units
_embed/manifest/NNNNNN.json                   snapshots, hash-chained, contiguous
_embed/manifest/NNNNNN-HASH.arrow             their tables, one row a part
_embed/ranges/FFFFFFFFFFFF-HASH.arrow         frozen ranges of int8 columns
_embed/rejects/UNITKEY-gNNNNNN-HASH.arrow     rows without a vector
_embed/attempts/UNITKEY/N                     units that were begun, N times
_embed/attempts/UNITKEY/poison-N.json         rows of it that kill a process
_embed/measured/UNITKEY-gNNNNNN.json          what the encoder saw of a unit, until its manifest is
_embed/reuse/NNNNNN-HASH.json, NNNNNN-HASH-HASH  index of a snapshot's inputs, until the next is
_embed/keys/UNITKEY-gNNNNNN-K.keys            of a part's rows, what sinks know them by
_embed/log/RUNID/NNNNNN.jsonl                 events of a run
_embed/report/RUNID.json                      its report
_embed/index/RUNID.json                       what `index` did, sink by sink
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any

import pyarrow as pa

from embedmill.schemas.columns import SLICE
from embedmill.schemas.errors import ConflictError
from embedmill.schemas.plan import Shard, Slice, Unit

FORMAT = 1
AT_ONCE = 10_000  # rows of a table in the making
NAMED = 100  # shards that are left out, in a manifest
KEYS_FORMAT = 1  # raise by hand when the same rows have other keys in a sink


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One committed part: the receipt of a unit, and one row of a manifest's table."""

    unit_key: str
    path: str  # under the output folder
    sha256: str
    bytes: int
    rows_in: int
    rows_out: int  # input rows with a vector
    vectors: int  # rows of the part: with windows, more than rows_out
    rows_deduplicated: int  # whose input an earlier row of the unit has too
    rows_cut: int
    tokens: int  # of the distinct inputs, special tokens included
    rejects: dict[str, int]  # code -> rows
    rejects_path: str  # "" = none
    slices: tuple[Slice, ...]
    # Measured by the encoder, for the quality gates: nothing of vectors that were reused.
    sequences: int  # encoded; equal inputs share theirs
    tokens_encoded: int  # of those sequences
    tokens_unknown: int  # [UNK] among them
    collapsed: int  # sequences whose vector one with other ids has too
    norm_sum: float  # of the first vector column, before normalization
    norm_squares: float

    @property
    def rows_rejected(self) -> int:
        """Rows without a vector."""
        return sum(self.rejects.values())


# What follows from a part's rows alone: its footer holds it, so that a resumed run knows it.
COUNTS = (
    "rows_in", "rows_out", "vectors", "rows_deduplicated", "rows_cut", "tokens", "rejects",
)  # fmt: skip
# What depends on how its vectors came about is beside the part, whose bytes must not.
MEASURED = (
    "sequences", "tokens_encoded", "tokens_unknown", "collapsed", "norm_sum", "norm_squares",
)  # fmt: skip

PART_TABLE = pa.schema(
    [
        ("unit_key", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        ("vectors", pa.int64()),
        ("rows_deduplicated", pa.int64()),
        ("rows_cut", pa.int64()),
        ("tokens", pa.int64()),
        ("rejects", pa.map_(pa.string(), pa.int64())),
        ("rejects_path", pa.string()),
        ("slices", pa.list_(SLICE)),
        ("sequences", pa.int64()),
        ("tokens_encoded", pa.int64()),
        ("tokens_unknown", pa.int64()),
        ("collapsed", pa.int64()),
        ("norm_sum", pa.float64()),
        ("norm_squares", pa.float64()),
    ]
)


def slices_to_rows(slices: tuple[Slice, ...]) -> list[dict[str, Any]]:
    """Slices as values of columns.SLICE."""
    return [
        dict(zip(SLICE.names, (*_facts(s.shard), s.start, s.rows), strict=True)) for s in slices
    ]


def _facts(shard: Shard) -> tuple[Any, ...]:
    return tuple(getattr(shard, name) for name in Shard.__slots__)


def slices_from_rows(rows: list[dict[str, Any]]) -> tuple[Slice, ...]:
    """The inverse of slices_to_rows."""
    return tuple(
        Slice(Shard(*(row[name] for name in SLICE.names[:6])), row["start"], row["rows"])
        for row in rows
    )


def unit_of(row: dict[str, Any]) -> Unit:
    """The unit of one row of a table with unit_key and slices."""
    return Unit(row["unit_key"], slices_from_rows(row["slices"]))


def record_to_row(record: PartRecord) -> dict[str, Any]:
    """A part record as a value of PART_TABLE."""
    plain = {f.name: getattr(record, f.name) for f in fields(record)}
    return {**plain, "slices": slices_to_rows(record.slices)}


def table_of(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table: never more than a few of them as dicts, each of which is a kilobyte."""
    rows, batches = iter(rows), []
    while some := list(islice(rows, AT_ONCE)):
        batches.append(pa.RecordBatch.from_pylist(some, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def record_from_row(row: dict[str, Any]) -> PartRecord:
    """The inverse of record_to_row."""
    return PartRecord(
        **{**row, "slices": slices_from_rows(row["slices"]), "rejects": dict(row["rejects"])}
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """One immutable snapshot. Two drivers of one plan write equal bytes: no time, no run id."""

    format: int
    generation: int
    previous: str  # sha256 of the manifest before it; "" = the first
    plan: str  # name of the plan it fulfils
    fingerprint: str
    identity: dict[str, Any]
    model: dict[str, Any]
    columns: list[dict[str, Any]]
    layout: (
        str  # hash of all but the input that decides a part's content: what lets a part carry over
    )
    table: str  # name of the table under _embed/manifest/
    table_sha256: str
    parts: int
    rows_in: int
    rows_out: int
    vectors: int
    rows_cut: int
    tokens: int
    rejects: dict[str, int]
    quarantined: list[str]  # unreadable shards, the first NAMED
    num_quarantined: int

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Reads a manifest; ConflictError if it is of another format or not one of ours."""
        try:
            value = json.loads(data)
            if value["format"] != FORMAT:
                raise ConflictError(
                    "FORMAT",
                    where,
                    f"written in format {value['format']}, this version reads {FORMAT}",
                    "use the version that wrote it, or another output.path",
                )
            return cls(**value)
        except (ValueError, KeyError, TypeError) as error:
            raise ConflictError(
                "MANIFEST_CORRUPT", where, f"not a manifest: {error}", "run verify"
            ) from None


def part_name(fingerprint: str, unit_key: str, generation: int) -> str:
    """data/FFFFFFFFFFFF/UNITKEY-gNNNNNN.parquet."""
    return f"data/{fingerprint[:12]}/{unit_key}-g{generation:06d}.parquet"


def measured_name(unit_key: str, generation: int) -> str:
    """_embed/measured/UNITKEY-gNNNNNN.json."""
    return f"_embed/measured/{unit_key}-g{generation:06d}.json"


def keys_name(part: str) -> str:
    """_embed/keys/UNITKEY-gNNNNNN-K.keys, for the part of that name."""
    return f"_embed/keys/{part.rpartition('/')[2].removesuffix('.parquet')}-{KEYS_FORMAT}.keys"


def manifest_name(generation: int) -> str:
    """_embed/manifest/NNNNNN.json."""
    return f"_embed/manifest/{generation:06d}.json"


def attempt_name(unit_key: str, number: int) -> str:
    """_embed/attempts/UNITKEY/N."""
    return f"_embed/attempts/{unit_key}/{number}"


def poison_name(unit_key: str, number: int) -> str:
    """_embed/attempts/UNITKEY/poison-N.json."""
    return f"_embed/attempts/{unit_key}/poison-{number}.json"
