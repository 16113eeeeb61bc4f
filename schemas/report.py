"""What one run did: every figure with its unit and its meaning.

rows_in = rows_encoded + rows_deduplicated + rows_reused + rows_resumed + rows_rejected
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

# What became of the rows: these add up to rows_in.
FATES = ("rows_encoded", "rows_deduplicated", "rows_reused", "rows_resumed", "rows_rejected")
EMPTY: dict[str, type] = {kind.__name__: kind for kind in (str, int, float, list, dict)}


@dataclass(frozen=True, slots=True)
class RunReport:
    """The report of one run; `run --json` and `report --json` print it."""

    run_id: str
    fingerprint: str  # identity of the encoding
    manifest: str  # the snapshot this run made or found; "" = none was made
    output: str
    commits: str  # what the store's probe said: atomic | advisory | none
    exit_code: int
    rows_in: int  # rows of the input
    rows_encoded: int  # went through the model in this run
    rows_deduplicated: int  # share the vector of an equal row of their unit
    rows_reused: int  # have their vector from the last snapshot: its part, or their own of it
    rows_resumed: int  # have their vector from an earlier, interrupted run of this plan
    rows_rejected: int  # have none; see rejects
    rows_cut: int  # lost text to max_tokens
    rejects: dict[str, int]  # code -> rows
    tokens: int  # encoded in this run, special tokens included
    units: int  # of this plan, without what the last snapshot has
    units_resumed: int  # were committed already
    parts: int  # of the snapshot
    vectors: int  # rows of its parts: with windows, more than input rows
    quarantined: list[str]  # shards left out, the first 100
    warnings: list[str]  # of the quality gates
    seconds: float  # wall time of the run, from command to manifest
    startup_seconds: float  # from the command to the first pack in an encoder
    encode_seconds: float  # wall time with at least one pack in an encoder
    tokenize_seconds: float  # reading and tokenizing, summed over units; runs beside the encoder
    write_seconds: float  # writing and committing, summed over units; runs beside the encoder
    tokens_per_s: float  # tokens / encode_seconds
    rows_per_s: float  # rows of the units that were made / seconds
    encoder_busy: (
        float  # share of the time from the first pack to the last vector; 1 = never waited
    )
    peak_rss_bytes: int  # of the largest process
    clipped: dict[str, float] = field(default_factory=dict)  # int8 columns: share of values cut off
    engine: dict[str, str] = field(default_factory=dict)  # device, precision, attention, path, …
    # At up to 120 moments, seconds since the command, then sums of this run so far: rows, tokens,
    # tokenize_seconds, encode_seconds, write_seconds.
    timeline: list[list[float]] = field(default_factory=list)
    version: str = ""  # of embedmill
    # What lies under the input and was not read: hidden, linked, suffix, no file -> how many.
    left_out: dict[str, int] = field(default_factory=dict)
    left_out_named: list[list[str]] = field(default_factory=list)  # where, reason: the first 100

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> RunReport:
        """The inverse of to_json; TypeError if it is no report.

        What the report of an older version lacks is empty, what one of a newer has is left out.
        """
        if not isinstance(value, dict) or not isinstance(value.get("run_id"), str):
            raise TypeError("not a report")
        return cls(
            **{f.name: value.get(f.name, EMPTY[f.type.split("[")[0]]()) for f in fields(cls)}
        )
