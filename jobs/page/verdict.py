"""Whether it went well, in a word, a sentence and what speaks against it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from embedmill.jobs.page.facts import Facts
from embedmill.jobs.page.sample import shown
from embedmill.jobs.watch.history import PastRun
from embedmill.jobs.watch.report import not_read
from embedmill.schemas.report import FATES, RunReport

FEW_TOKENS = 20_000  # a run of fewer says nothing about speed
SLOW, SHRUNK = 0.5, 0.8


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person should know in ten seconds."""

    state: str  # good | look | bad
    title: str
    lines: list[str]


def judge_run(facts: Facts) -> Verdict:
    """The verdict on the newest run of an output, and on what can be read of its snapshot."""
    if not facts.runs:
        return Verdict("look", "No run is known here", _against(facts))
    run = facts.runs[0]
    if run.exit_code is None:
        heard = f"; it was last heard of at {run.last}" if run.last else ""
        line = f"It is going on or was killed{heard}. The same command resumes it."
        return Verdict("look", "The last run has no end", [line, *_older(facts)])
    if run.exit_code in (130, 143):
        line = "A signal stopped it. What it finished stays, and the same command resumes it."
        return Verdict("look", "The last run was stopped", [line, *_older(facts)])
    if run.exit_code != 0:
        lines = [f"Exit {run.exit_code}. {run.what}".strip(), *_older(facts)]
        return Verdict("bad", "The last run failed", lines)
    if run.report is None:
        return Verdict("look", "The last run ended well, but its report is gone", _older(facts))
    return _of_report(facts, run.report)


def _of_report(facts: Facts, report: RunReport) -> Verdict:
    out = sum(getattr(report, fate) for fate in FATES)
    if out != report.rows_in:
        line = f"{report.rows_in:,} rows came in, {out:,} are accounted for."
        return Verdict("bad", "Rows are missing", [line, *_against(facts)])
    against = _against(facts)
    if facts.trouble:
        return Verdict("bad", "The snapshot is damaged", against)
    rejected = report.rows_rejected
    said = "Every row has its vector" if not rejected else "Every row is accounted for"
    line = f"{said}: {report.rows_in - rejected:,} of {report.rows_in:,} rows have a vector"
    line += f", {rejected:,} were rejected." if rejected else "."
    if not report.tokens:
        line += " Nothing was left to encode."
    title = "Done, with something to look at" if against else "All went well"
    return Verdict("look" if against else "good", title, [line, *against])


def _older(facts: Facts) -> list[str]:
    """What is known beside a run that came to no good end."""
    if facts.report is None:
        return ["No run has come to its end here yet.", *_against(facts)]
    return _against(facts)


def _against(facts: Facts) -> list[str]:
    """What speaks against a run that ended well; empty = nothing."""
    report, lines = facts.report, [facts.trouble] if facts.trouble else []
    if report is None:
        return lines
    lines += report.warnings
    if count := len(report.quarantined):
        files = ", ".join(map(shown, report.quarantined[:3]))
        more = f" and {count - 3} more" if count > 3 else ""
        lines.append(f"Unreadable shards were left out: {files}{more}.")
    lines += [f"Under the input was not read: {line}." for line in not_read(report.to_json())]
    lines += _changed(report, [run for run in facts.runs if run.report][1:])
    return lines


def _changed(report: RunReport, before: list[PastRun]) -> list[str]:
    """What is far from the runs before: fewer rows, a slower encoder."""
    lines = []
    if before and report.rows_in < SHRUNK * before[0].report.rows_in:
        was = before[0].report.rows_in
        lines.append(f"The input has shrunk from {was:,} to {report.rows_in:,} rows.")
    same = [
        run.report.tokens_per_s
        for run in before
        if run.report.fingerprint == report.fingerprint
        and run.report.engine.get("device") == report.engine.get("device")
        and run.report.tokens >= FEW_TOKENS
    ]
    if same and report.tokens >= FEW_TOKENS and report.tokens_per_s < SLOW * median(same):
        rate, usual = report.tokens_per_s, median(same)
        lines.append(f"Encoding was slow: {rate:,.0f} tokens a second, usually {usual:,.0f}.")
    return lines
