"""Whether it went well: every way in which a night can end, in the words that a person reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from embedmill.jobs.page.facts import Facts
from embedmill.jobs.page.verdict import judge_run
from embedmill.jobs.watch.history import PastRun, past_runs
from embedmill.pipeline.run.log import RUN_ID, RunLog
from embedmill.pipeline.run.timeline import MOST, Timeline
from embedmill.pipeline.store.output import LocalStore
from embedmill.schemas.report import RunReport

NIGHTS = [f"2026110{day}T020000Z-abcdef" for day in range(9, 0, -1)]


def report(**changes: Any) -> RunReport:
    """The report of a run of 3,000 rows in which all went well."""
    good = RunReport(
        run_id=NIGHTS[0], fingerprint="f" * 64, manifest="_embed/manifest/000001.json",
        output="out", commits="atomic", exit_code=0, rows_in=3000, rows_encoded=2900,
        rows_deduplicated=60, rows_reused=20, rows_resumed=10, rows_rejected=10, rows_cut=5,
        rejects={"NULL_TEXT": 10},
        tokens=60_000, units=3, units_resumed=0, parts=3, vectors=2990, quarantined=[],
        warnings=[], seconds=20.0, startup_seconds=2.0, encode_seconds=15.0, tokenize_seconds=1.0,
        write_seconds=1.0, tokens_per_s=4000.0, rows_per_s=150.0, encoder_busy=0.99,
        peak_rss_bytes=1 << 29, engine={"device": "cpu"},
    )  # fmt: skip
    return replace(good, **changes)


def facts(*runs: PastRun, **more: Any) -> Facts:
    return Facts("out", datetime.now(UTC), list(runs), **more)


def done(night: int = 0, **changes: Any) -> PastRun:
    return PastRun(NIGHTS[night], 0, report=report(run_id=NIGHTS[night], **changes))


def said(*runs: PastRun, **more: Any) -> tuple[str, str]:
    """(state, title and lines in one)."""
    verdict = judge_run(facts(*runs, **more))
    return verdict.state, " ".join([verdict.title, *verdict.lines])


def test_a_good_night() -> None:
    state, words = said(done(), done(1))

    assert state == "good"
    assert "All went well" in words
    assert "2,990 of 3,000 rows have a vector, 10 were rejected" in words


def test_a_night_with_nothing_to_do_is_good() -> None:
    state, words = said(done(rows_encoded=0, rows_reused=2920, tokens=0, tokens_per_s=0.0))

    assert state == "good"
    assert "Nothing was left to encode" in words


def test_rows_that_are_not_accounted_for_are_bad() -> None:
    state, words = said(done(rows_encoded=2899))

    assert state == "bad"
    assert "3,000 rows came in, 2,999 are accounted for" in words


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"warnings": ["cut_rate 0.7 of the rows lost text"]}, "cut_rate 0.7"),
        ({"quarantined": ["a.parquet", "b", "c", "d"]}, "a.parquet, b, c and 1 more"),
        ({"tokens_per_s": 1900.0}, "1,900 tokens a second, usually 4,000"),
        ({"rows_in": 300, "rows_encoded": 200}, "shrunk from 3,000 to 300"),
    ],
)
def test_what_a_person_should_look_at(changes: dict[str, Any], word: str) -> None:
    state, words = said(done(**changes), done(1), done(2))

    assert state == "look"
    assert word in words


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens_per_s": 2100.0},
        {"tokens_per_s": 100.0, "tokens": 500},  # too few to tell
        {"tokens_per_s": 100.0, "engine": {"device": "cuda"}},  # another device
        {"tokens_per_s": 100.0, "fingerprint": "a" * 64},  # another encoding
    ],
)
def test_a_speed_that_says_nothing(changes: dict[str, Any]) -> None:
    assert said(done(**changes), done(1), done(2))[0] == "good"


def test_a_failed_run_says_its_exit_code_and_why() -> None:
    failed = PastRun(NIGHTS[0], 7, "STORAGE_FULL: out: no space left; free some space")

    state, words = said(failed, done(1))

    assert state == "bad"
    assert "The last run failed Exit 7. STORAGE_FULL: out: no space left; free some space" in words
    assert "has come to its end" not in words


def test_a_first_run_that_failed_says_that_none_has_ended() -> None:
    assert "No run has come to its end here yet" in said(PastRun(NIGHTS[0], 3, "no"))[1]


@pytest.mark.parametrize("code", [130, 143])
def test_a_stopped_run(code: int) -> None:
    state, words = said(PastRun(NIGHTS[0], code, "INTERRUPTED"))

    assert state == "look"
    assert "stopped" in words
    assert "resumes it" in words


def test_a_run_without_an_end() -> None:
    state, words = said(PastRun(NIGHTS[0], None, last="2026-11-09T03:00:00+00:00"), done(1))

    assert state == "look"
    assert "no end" in words
    assert "2026-11-09T03:00:00" in words


def test_a_snapshot_that_cannot_be_read_is_bad_however_the_run_went() -> None:
    state, words = said(done(), trouble="PART_CORRUPT: part: cannot be read")

    assert state == "bad"
    assert "PART_CORRUPT" in words


# --- where it is known from ---


def test_runs_are_read_newest_first_with_their_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    monkeypatch.setenv(RUN_ID, NIGHTS[1])
    failed = RunLog(store, "atomic")
    failed.event("start", plan="p", units=3, rows=30)
    failed.event("progress", rows=10, tokens=99)
    failed.event("end", exit_code=5, error="FaultBudgetError", what="FAULT_RATE: too many")
    monkeypatch.setenv(RUN_ID, NIGHTS[0])
    going = RunLog(store, "atomic")
    going.event("start", plan="p", units=3, rows=30)
    store.create(f"_embed/report/{NIGHTS[2]}.json", b'{"run_id": 3}')  # not one of ours
    store.create("_embed/log/<script>/000000.jsonl", b"{}")

    first, second, third = past_runs(store, 3)

    assert (first.run_id, first.exit_code, first.report) == (NIGHTS[0], None, None)
    assert (second.exit_code, second.what, second.rows) == (5, "FAULT_RATE: too many", 10)
    assert third.report is None
    assert [run.run_id for run in past_runs(store, 1)] == [NIGHTS[0]]


def test_a_report_of_another_version_is_read() -> None:
    old = report().to_json()
    del old["timeline"], old["version"], old["commits"]

    assert RunReport.from_json({**old, "of_the_future": 1}) == report(commits="")


@pytest.mark.parametrize("value", [None, [], {}, {"run_id": 3}])
def test_what_is_no_report_is_none(value: Any) -> None:
    with pytest.raises(TypeError):
        RunReport.from_json(value)


def test_a_timeline_stays_small_and_even() -> None:
    timeline = Timeline()
    for unit in range(10_000):
        timeline.add((float(unit), unit, 2 * unit, 0.0, 0.0, 0.0))

    at = [point[0] for point in timeline.points]
    assert MOST / 2 <= len(at) <= MOST
    assert at[0] == 0
    assert len({b - a for a, b in zip(at[:-1], at[1:], strict=True)}) == 1
    assert timeline.since(0.0)[1] == [at[1], at[1], 2 * at[1], 0.0, 0.0, 0.0]
