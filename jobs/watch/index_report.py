"""What `index` left said of sinks: in the output, and for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from embedmill.pipeline.store.output import Store

REPORTS = "_embed/index"


def reports(store: Store) -> Iterator[dict[str, Any]]:
    """What `index` said of each sink, the newest first."""
    for path in sorted(store.list(REPORTS), reverse=True):  # run ids begin with the time
        yield from json.loads(store.read(path))["sinks"]


def newest(store: Store) -> list[dict[str, Any]]:
    """The last word on each place; of what was there already, with what was said when it came."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for sink in reports(store):
        last = found.setdefault((sink["sink"], sink["place"]), sink)
        if last.get("unchanged") and "recall" not in last and "recall" in sink:
            last |= {"recall": sink["recall"], "sampled": sink["sampled"]}
    return list(found.values())


def index_text(report: dict[str, Any]) -> str:
    """The report for people: a few lines a sink."""
    lines = [f"{'output':>10}  {report['output']}, snapshot {report['snapshot']}"]
    for sink in report["sinks"]:
        lines += [f"{name:>10}  {said}" for name, said in sink_lines(sink)]
    return "\n".join(lines)


def sink_lines(sink: dict[str, Any]) -> list[tuple[str, str]]:
    """What became of one sink, as (name, words)."""
    head = f"{sink['place']}: "
    if "error" in sink:
        return [(sink["name"], head + sink["error"])]
    kind = f"{sink['column']}, {sink['metric']}, {sink['type']}"
    if sink["unchanged"]:
        said = f"{sink['records']:,} records ({kind}), as they were; nothing to do"
        if "recall" in sink:
            said += f"; recall@10 was {sink['recall']:.4f}"
        return [(sink["name"], head + said)]
    said = f"{sink['records']:,} records ({kind})"
    said += f" = {sink['added']:,} added, {sink['removed']:,} removed"
    said += ", in a load of its own" if sink["beside"] else ""
    lines = [(sink["name"], head + said)]
    if sink["repeated"]:
        lines.append(("", f"{sink['repeated']:,} rows equal another in all and have its record"))
    lines.append(
        (
            "",
            f"{sink['sampled']} records read back, recall@10 of them {sink['recall']:.4f}, "
            f"{sink['seconds']:,.1f} s",
        )
    )
    lines += [("warning", line) for line in sink["warnings"]]
    return lines
