"""`plan`: what a run would do, writing nothing. Rows are exact; tokens come from a sample."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedmill.jobs.estimate.cost import billion_lines, billion_rows
from embedmill.jobs.estimate.rates import rate_of
from embedmill.jobs.watch.duration import duration
from embedmill.jobs.watch.report import not_read
from embedmill.pipeline.batches import Prepared
from embedmill.pipeline.flow import prepare
from embedmill.pipeline.load import load_tokenizer
from embedmill.pipeline.plan.plan import Planned, make_plan
from embedmill.pipeline.reuse.reuse import can_reuse, has_windows
from embedmill.pipeline.reuse.sorted_index import as_halves, known
from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.plan import Slice, Unit
from embedmill.schemas.spec import Spec

SAMPLE_ROWS = 2000
SAMPLE_PLACES = 8
BAR, LEAST = 40, 8  # of the histogram: width of the longest bar, tokens of the first


@dataclass(slots=True)
class Counts:
    """Sums over the sampled rows."""

    rows: int = 0
    tokens: int = 0  # that would be encoded
    reused: int = 0
    duplicates: int = 0
    cut: int = 0
    rejects: int = 0
    lengths: Counter[int] = field(default_factory=Counter)  # tokens, rounded up -> sequences


def plan(spec: Spec) -> dict[str, Any]:
    """Shards, units and rows of the next run, with estimates of tokens, time and cost."""
    store = open_store(spec.output.path)
    planned = make_plan(spec, store)
    rows = sum(unit.rows for unit in planned.units)
    sample = _sample(store, planned)
    share = rows / sample.rows if sample.rows else 0
    tokens = round(sample.tokens * share)
    rate, price = rate_of(store, planned, spec.run), spec.run.price_per_hour
    seconds = rate.seconds(tokens)
    lengths = [[t, n / sample.lengths.total()] for t, n in sorted(sample.lengths.items())]
    return {
        **{
            key: planned.counts[key]
            for key in ("shards", "rows", "rows_new", "rows_changed", "rows_carried")
        },
        "units": len(planned.units),
        "fingerprint": planned.plan.fingerprint,
        "tokens_estimated": tokens,
        "tokens_histogram": [[most, round(share, 4)] for most, share in lengths],
        "reused_estimated": round(sample.reused * share),
        "duplicates_estimated": round(sample.duplicates * share),
        "cut_estimated": round(sample.cut * share),
        "rejects_estimated": round(sample.rejects * share),
        "sample": sample.rows,
        "seconds_estimated": round(seconds, 1),
        "tokens_per_s": round(rate.tokens_per_s),
        "rate_from": rate.source,
        "cost_estimated": None if price is None else round(seconds / 3600 * price, 4),
        "price_per_hour": price,
        "billion_rows": billion_rows(planned, spec.run, sample.tokens / max(sample.rows, 1)),
        "tokens_per_row": round(sample.tokens / max(sample.rows, 1), 1),
        "precision": planned.plan.settings.precision,
        "device": planned.plan.settings.device,
        "quarantined": [str(error) for error in planned.listing.quarantined],
        "left_out": dict(planned.listing.others.counts),
        "left_out_named": [list(entry) for entry in planned.listing.others.named],
        "output": planned.plan.output,
    }


def plan_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        (
            "rows",
            f"{facts['rows']:,} in {_many(facts['shards'], 'shard')}: {facts['rows_new']:,} new, "
            f"{facts['rows_changed']:,} changed, {facts['rows_carried']:,} carried over",
        )
    ]
    if not facts["units"]:
        lines.append(("work", "nothing to encode: the last snapshot has every row"))
    else:
        lines += _work(facts)
    kind = f"{facts['precision']} on {facts['device']}"
    lines.append(("output", f"{facts['output']}, {kind}, fingerprint {facts['fingerprint'][:12]}"))
    lines += [("left out", error) for error in facts["quarantined"]]
    lines += [("not read", text) for text in not_read(facts)]
    return "\n".join(f"{name:>8}  {text}" for name, text in lines)


def _work(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is to be done, and what it takes."""
    counts = {name: facts[f"{name}_estimated"] for name in ("reused", "duplicates", "cut")}
    counts["rejected"] = facts["rejects_estimated"]
    rows = facts["rows_new"] + facts["rows_changed"]
    said = ", ".join(f"{name} {n:,} ({n / max(rows, 1):.1%})" for name, n in counts.items())
    yield "of them", f"{said}, from a sample of {facts['sample']:,}"
    most = max((share for _, share in facts["tokens_histogram"]), default=1)
    below = 0
    for upper, share in facts["tokens_histogram"]:
        bar = "█" * max(1, round(share / most * BAR))
        yield "" if below else "tokens", f"{below + 1:>6,} to {upper:<6,} {share:>6.1%} {bar}"
        below = upper
    yield (
        "work",
        f"{_many(facts['units'], 'unit')}, about {facts['tokens_estimated']:,} tokens",
    )
    rate = f"{facts['tokens_per_s']:,} tokens a second, {facts['rate_from']}"
    yield "time", f"about {duration(facts['seconds_estimated'])}: {rate}"
    if facts["cost_estimated"] is not None:
        price = f"{facts['price_per_hour']:,} an hour, given in run.price_per_hour"
        yield "cost", f"about {facts['cost_estimated']:,.2f}: {price}"
    for n, line in enumerate(billion_lines(facts["billion_rows"], facts["tokens_per_row"])):
        yield "" if n else "billion", line


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def _sample(store: Store, planned: Planned) -> Counts:
    """Counts over rows from a few places of the input, the same places each time.

    Where there is something to reuse, the hashes of the whole last snapshot are read for it.
    """
    slices = [piece for unit in planned.units for piece in unit.slices if piece.rows]
    counts = Counts()
    if not slices:
        return counts
    tokenizer = load_tokenizer(planned.plan)
    chosen = random.Random(0).sample(slices, min(SAMPLE_PLACES, len(slices)))
    sample = []
    for piece in chosen:
        rows = min(piece.rows, SAMPLE_ROWS // len(chosen))
        unit = Unit("", (Slice(piece.shard, piece.start, rows),))
        sample.append(prepare(planned.plan, unit, tokenizer))
    hashes = [value for prepared in sample for value in prepared.rows["input_hash"].to_pylist()]
    known_N = np.zeros(len(hashes), bool)
    if can_reuse(planned):
        paths = planned.parts.column("path").to_pylist()
        known_N = known(store, paths, has_windows(planned.plan), as_halves(hashes))
    for prepared in sample:
        known_R, known_N = np.split(known_N, [len(prepared.rows)])
        _count(prepared, known_R, planned.plan.model["max_tokens"], counts)
    return counts


def _count(prepared: Prepared, known_R: np.ndarray, most: int, counts: Counts) -> None:
    """Adds one place of the sample; `known_R` are the rows whose vector the snapshot has."""
    rows_V, firsts = np.unique(prepared.row_V, return_index=True)
    new_V = ~known_R[prepared.row_V]
    encoded = len(np.unique(prepared.sequence_V[firsts][new_V[firsts]]))
    lengths_S = prepared.sequences.lengths_S
    counts.rows += len(known_R)
    counts.tokens += int(lengths_S[np.unique(prepared.sequence_V[new_V])].sum())
    counts.reused += int((~new_V[firsts]).sum())
    counts.duplicates += int(new_V[firsts].sum()) - encoded
    counts.rejects += len(known_R) - len(rows_V)
    counts.cut += int((prepared.sequences.cut_S[prepared.sequence_V[firsts]] > 0).sum())
    upper_V = 2 ** np.ceil(np.log2(np.maximum(lengths_S[prepared.sequence_V], LEAST))).astype(int)
    counts.lengths.update(np.minimum(upper_V, most).tolist())
