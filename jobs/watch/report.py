"""`report`: the last run's figures, as JSON, as a page of text or as a page of HTML."""

from __future__ import annotations

import json
from typing import Any

from embedmill.jobs.watch.index_report import newest, sink_lines
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import ConflictError


def report(output: str) -> dict[str, Any]:
    """The report of the last finished run of an output, and what `index` last said of its sinks."""
    store = open_store(output)
    names = [name for name in store.list("_embed/report") if name.endswith(".json")]
    if not names:
        raise ConflictError("NO_REPORT", output, "no run has finished here", "run the spec first")
    last = json.loads(store.read(names[-1]))  # run ids begin with the time
    return {**last, "sinks": newest(store)}


def report_text(facts: dict[str, Any]) -> str:
    """A report for people: what went in, what came out, what it cost."""
    rejects = ", ".join(f"{code} {count:,}" for code, count in facts["rejects"].items())
    engine = facts["engine"]
    kind = " ".join(engine[key] for key in ("precision", "device", "path") if key in engine)
    lines = [
        (
            "rows",
            f"{facts['rows_in']:,} in = {facts['rows_encoded']:,} encoded "
            f"+ {facts['rows_deduplicated']:,} equal to another + {facts['rows_reused']:,} reused "
            f"+ {facts['rows_resumed']:,} resumed + {facts['rows_rejected']:,} rejected",
        ),
        ("rejects", rejects or "none"),
        ("cut", f"{facts['rows_cut']:,} rows lost text to max_tokens"),
        ("units", f"{facts['units']:,}, of which {facts['units_resumed']:,} were there already"),
        ("tokens", f"{facts['tokens']:,} at {facts['tokens_per_s']:,.0f} a second ({kind})"),
        (
            "time",
            f"{facts['seconds']:,.1f} s, encoding {facts['encode_seconds']:,.1f} s, "
            f"encoder busy {facts['encoder_busy']:.0%}",
        ),
        ("memory", f"{facts['peak_rss_bytes'] / 2**20:,.0f} MiB in the largest process"),
        ("output", f"{facts['output']}, {facts['parts']:,} parts, snapshot {facts['manifest']}"),
    ]
    for name, share in facts.get("clipped", {}).items():
        lines.append(("clipped", f"{share:.3%} of the values of {name} lay outside its range"))
    if facts.get("commits", "atomic") != "atomic":
        said = f"the store's creation is {facts['commits']}: only one run at a time is safe"
        lines.append(("warning", said))
    if facts["quarantined"]:
        lines.append(("left out", ", ".join(facts["quarantined"])))
    lines += [("not read", text) for text in not_read(facts)]
    lines += [("warning", line) for line in facts.get("warnings", [])]
    for sink in facts.get("sinks", []):
        lines += sink_lines(sink)
    if not facts["tokens"]:
        lines.append(("", "nothing was left to encode"))
    return "\n".join(f"{name:>8}  {text}" for name, text in lines)


def not_read(facts: dict[str, Any]) -> list[str]:
    """One line on what lies under the input and is not read, if there is anything."""
    counts = facts.get("left_out") or {}
    if not counts:
        return []
    said = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
    first = [where for where, _ in facts["left_out_named"][:3]]
    more = ", ..." if sum(counts.values()) > len(first) else ""
    return [f"{said}: {', '.join(first)}{more}"]
