"""Puts the page together: one file, no script, nothing fetched, whatever the corpus says.

Three locks, each enough alone: the template escapes every value; figures pass a list of elements
and attributes; and the page's own Content-Security-Policy allows nothing but its style sheet, by
its hash.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from embedmill.jobs.page import draw
from embedmill.jobs.page.facts import Facts, read_facts
from embedmill.jobs.page.sample import Sample
from embedmill.jobs.page.scatter import Scatter, scatter
from embedmill.jobs.page.verdict import judge_run
from embedmill.jobs.watch.duration import duration
from embedmill.schemas.report import FATES, RunReport

HERE = Path(__file__).parent
FIGURES = ("rows", "times", "throughput", "lengths", "along", "map", "history")
FEWEST_PARTS = 4  # fewer parts than this make no curve
GATES = {
    "unk_rate": ("tokens that the vocabulary does not know", "{:.2%}"),
    "cut_rate": ("rows that lost text to max_tokens", "{:.2%}"),
    "reject_rate": ("rows without a vector", "{:.2%}"),
    "collapse": ("sequences with another one's vector", "{:.2%}"),
    "norm_spread": ("deviation of the norms over their mean", "{:.3f}"),
}


def make_page(output: str) -> str:
    """The page of an output, as HTML; ConflictError if the folder is not one."""
    facts = read_facts(output)
    style = (HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"duration": duration, "short": draw.short}
    seen = scatter(facts.sample) if facts.sample else None
    return environment.get_template("page.html").render(
        style=Markup(style),
        style_hash=digest,
        facts=facts,
        verdict=judge_run(facts),
        report=facts.report,
        rows=_rows(facts.report) if facts.report else [],
        times=_times(facts.report) if facts.report else [],
        stages=_stages(facts.report) if facts.report else [],
        gates=_gates(facts),
        scatter=seen,
        groups=_groups(facts.sample, seen) if facts.sample and seen else [],
        draw=_figures(facts, seen),
    )


def _figures(facts: Facts, seen: Scatter | None) -> dict[str, Markup]:
    """The figures, all of cleaned SVG; empty where there is nothing to draw."""
    report, sample, plan = facts.report, facts.sample, facts.plan
    made = dict.fromkeys(FIGURES, "")
    if report:
        made["rows"] = draw.stack("rows", "Rows of the input by what became of them", _rows(report))
        made["times"] = draw.stack("times", "Where the time went", _times(report))
    if report and report.tokens and len(report.timeline) >= 3:
        made["throughput"] = draw.throughput(report)
    if plan and sample and sample.seen:
        made["lengths"] = draw.lengths(sample.tokens, plan.model["max_tokens"])
    if facts.manifest and facts.manifest.parts >= FEWEST_PARTS:
        made["along"] = draw.along(facts.stretches)
    if sample and seen:
        made["map"] = draw.plane(seen, sample.labels)
    if facts.runs:
        made["history"] = draw.history(facts.runs)
    return {name: Markup(svg) for name, svg in made.items()}


def _rows(report: RunReport) -> list[draw.Part]:
    kinds = zip(draw.ROWS, FATES, strict=True)
    amounts = [(word, getattr(report, name), colour) for (word, colour), name in kinds]
    return [draw.Part(word, rows, f"{rows:,} rows", colour) for word, rows, colour in amounts]


def _times(report: RunReport) -> list[draw.Part]:
    """The wall time of the run, in parts that add up."""
    encoding = report.encode_seconds
    waiting = encoding / report.encoder_busy - encoding if report.encoder_busy else 0.0
    rest = max(report.seconds - report.startup_seconds - encoding - waiting, 0.0)
    parts = [
        ("before the first pack", report.startup_seconds, 6),
        ("encoding", encoding, 0),
        ("the encoder waiting", max(waiting, 0.0), 1),
        ("after the last vector" if report.tokens else "planning", rest, 5),
    ]
    return [draw.Part(word, s, duration(s), colour) for word, s, colour in parts]


def _stages(report: RunReport) -> list[dict[str, Any]]:
    """What each stage took, summed over the processes that do it, and its own speed."""
    spent = (report.tokenize_seconds, report.encode_seconds, report.write_seconds)
    return [
        {"word": word, "colour": colour, "seconds": s, "rate": report.tokens / s if s else 0.0}
        for (word, colour), s in zip(draw.STAGES, spent, strict=True)
    ]


def _gates(facts: Facts) -> list[dict[str, Any]]:
    """The figures of the quality gates, and which of them the run warned of."""
    warned = {line.partition(" ")[0] for line in facts.report.warnings} if facts.report else set()
    return [
        {"name": name, "word": word, "figure": form.format(value), "warned": name in warned}
        for name, value in facts.figures.items()
        for word, form in [GATES.get(name, (name, "{:.4g}"))]
    ]


def _groups(sample: Sample, seen: Scatter) -> list[dict[str, Any]]:
    """Each group's middle row and what is nearest to it."""
    sizes = [float((seen.group_M == g).mean()) for g in range(len(seen.middle_G))]
    return [
        {
            "label": sample.labels[row],
            "share": share,
            "nearest": [(sample.labels[other], cosine) for other, cosine in nearest],
        }
        for row, share, nearest in zip(seen.middle_G, sizes, seen.nearest, strict=True)
    ]
