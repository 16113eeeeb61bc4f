"""What a finished unit reports to its runner, and the running sums over them."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field

from embedmill.pipeline.batches import Encoded
from embedmill.pipeline.parts.commit import adopt
from embedmill.pipeline.run.timeline import Timeline
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.columns import FAULTS, Status
from embedmill.schemas.errors import FaultBudgetError
from embedmill.schemas.manifest import PartRecord
from embedmill.schemas.plan import Plan, Unit

# A corpus below this many rows never trips the fault budget: one bad row of ten is no trend.
BUDGET_FROM_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Receipt:
    """One committed unit, and what it cost."""

    record: PartRecord
    prepare_seconds: float
    encode_span: tuple[float, float]  # wall clock
    write_seconds: float
    peak_rss_bytes: int
    engine: dict[str, str]
    clipped: dict[str, tuple[int, int]]  # int8 columns: values outside the range, and all
    rows_encoded: int = 0
    rows_reused: int = 0
    tokens: int = 0  # encoded
    adopted: bool = False  # another driver of this plan committed it while this one ran

    @classmethod
    def of(cls, record: PartRecord, encoded: Encoded, write_seconds: float) -> Receipt:
        """The receipt of a unit that was just committed."""
        return cls(
            record,
            encoded.prepare_seconds,
            encoded.encode_span,
            write_seconds,
            encoded.peak_rss_bytes,
            encoded.engine,
            encoded.clipped,
            encoded.rows_encoded,
            encoded.rows_reused,
            int(encoded.measured["tokens_encoded"]),
        )


def adopted(plan: Plan, unit: Unit) -> Receipt | None:
    """The receipt of a unit that another driver of this plan has committed; None if none has."""
    record = adopt(open_store(plan.output), plan, unit)
    return record and Receipt(record, 0.0, (0.0, 0.0), 0.0, 0, {}, {}, adopted=True)


@dataclass(slots=True)
class Tally:
    """Sums over the receipts of one run."""

    fault_rate: float
    long_is_fault: bool = True  # not where long_text: reject asks for it
    rows: int = 0
    encoded: int = 0  # rows that went through the model
    reused: int = 0  # rows whose vector the last snapshot had
    deduplicated: int = 0
    tokens: int = 0
    judged: int = 0  # rows that the fault budget was asked about, resumed ones too
    rejects: Counter[str] = field(default_factory=Counter)  # of these
    clipped: Counter[str] = field(default_factory=Counter)  # values outside their range
    quantized: Counter[str] = field(default_factory=Counter)  # values of int8 columns
    prepare_seconds: float = 0.0
    write_seconds: float = 0.0
    peak_rss_bytes: int = 0
    busy: Spans = field(default_factory=lambda: Spans())
    engine: dict[str, str] = field(default_factory=dict)
    adopted: list[PartRecord] = field(default_factory=list)  # by other drivers, meanwhile
    timeline: Timeline = field(default_factory=Timeline)

    def add(self, receipt: Receipt) -> None:
        """Counts a unit; FaultBudgetError once too many rows failed."""
        record = receipt.record
        self.rows += record.rows_in
        if receipt.adopted:
            self.adopted.append(record)
        else:
            self._add(receipt, record)
        self.judge(record)

    def _add(self, receipt: Receipt, record: PartRecord) -> None:
        self.encoded += receipt.rows_encoded
        self.reused += receipt.rows_reused
        self.deduplicated += record.rows_out - receipt.rows_encoded - receipt.rows_reused
        self.tokens += receipt.tokens
        for name, (outside, values) in receipt.clipped.items():
            self.clipped[name] += outside
            self.quantized[name] += values
        self.prepare_seconds += receipt.prepare_seconds
        self.write_seconds += receipt.write_seconds
        self.peak_rss_bytes = max(self.peak_rss_bytes, receipt.peak_rss_bytes)
        if receipt.engine:  # there were packs
            self.busy.add(*receipt.encode_span)
            self.engine = receipt.engine
        seconds = (self.prepare_seconds, self.encode_seconds, self.write_seconds)
        self.timeline.add((time.time(), self.rows, self.tokens, *seconds))

    def judge(self, *records: PartRecord) -> None:
        """FaultBudgetError if of the rows of these units and all before too many failed.

        Whoever made them: or a second run would take what the first one refused.
        """
        for record in records:
            self.judged += record.rows_in
            self.rejects.update(record.rejects)
        faults = sum(self.rejects[status.name] for status in FAULTS)
        faults += self.rejects[Status.TEXT_TOO_LONG.name] if self.long_is_fault else 0
        if self.judged >= BUDGET_FROM_ROWS and faults > self.fault_rate * self.judged:
            raise FaultBudgetError(
                "FAULT_RATE",
                "",
                f"{faults} of {self.judged} rows failed ({dict(self.rejects)})",
                "look at the rejects; parts stay, and a higher output.quality.fault_rate resumes",
            )

    @property
    def encode_seconds(self) -> float:
        """Wall time with at least one pack in an encoder."""
        return self.busy.seconds


@dataclass(slots=True)
class Spans:
    """The union of intervals, as disjoint ones in order, and how long they are together."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, start: float, end: float) -> None:
        """Joins an interval with all that it touches."""
        first = bisect_left(self.spans, start, key=lambda span: span[1])
        last = bisect_right(self.spans, end, key=lambda span: span[0])
        touched = self.spans[first:last]
        for low, high in touched:
            start, end = min(start, low), max(end, high)
        self.spans[first:last] = [(start, end)]
        self.seconds += end - start - sum(high - low for low, high in touched)
