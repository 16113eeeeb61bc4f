"""`status --follow` gives a run's events as they come, waits for a run, and ends with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedmill.jobs.watch.follow import SILENCE_SECONDS, Teller, follow
from embedmill.pipeline.run.log import RUN_ID, RunLog
from embedmill.pipeline.store.output import open_store

OLD, RUN, NEW = "20260101T000000Z-a", "20260102T000000Z-b", "20260103T000000Z-c"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Appends one object of events to a run's log."""

    def put(run: str, *events: dict[str, Any] | str) -> None:
        folder = tmp_path / "_embed" / "log" / run
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.jsonl")))
        lines = [e if isinstance(e, str) else json.dumps(e) for e in events]
        (folder / f"{number:06d}.jsonl").write_text("\n".join(lines) + "\n")

    return put


def event(kind: str, second: int, **more: Any) -> dict[str, Any]:
    return {"time": f"2026-01-02T00:00:{second:02d}+00:00", "event": kind, **more}


def script(*steps: Callable[[], None]) -> Callable[[float], None]:
    """A sleep in which the next thing happens; too many are a test that would hang."""
    waiting = list(steps)

    def sleep(_: float) -> None:
        assert waiting, "it still waits"
        waiting.pop(0)()

    return sleep


def test_it_waits_for_a_run_and_ends_with_it(
    tmp_path: Path, write: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    write(OLD, event("start", 0, units=9, rows=9), event("end", 1, exit_code=0))
    steps = [
        lambda: None,
        lambda: write(RUN, event("start", 0, units=2, rows=20)),
        lambda: None,
        lambda: write(RUN, event("progress", 5, rows=10, tokens=100), "broken {", "[]"),
        lambda: write(RUN, event("progress", 7, rows=20, tokens=200), event("end", 8, exit_code=0)),
    ]
    found = list(follow(str(tmp_path), script(*steps)))

    assert "embedmill: no run is going on; waiting for one\n" == capsys.readouterr().err
    assert ["start", "progress", "progress", "end"] == [e["event"] for e in found]
    assert {RUN} == {e["run_id"] for e in found}
    teller = Teller()
    assert [
        f"run {RUN}: 20 rows in 2 units to encode",
        f"run {RUN}: 10 of 20 rows (50 %), 20 tokens/s, 5 s left",
        f"run {RUN}: 20 of 20 rows (100 %), 50 tokens/s, 0 s left",
        f"run {RUN}: ended with exit code 0",
    ] == [teller.line(e) for e in found]


def test_an_output_that_is_not_there_yet(tmp_path: Path, write: Callable[..., None]) -> None:
    steps = [lambda: None, lambda: write(RUN, event("end", 1, exit_code=7, error="StorageError"))]
    (found,) = follow(str(tmp_path), script(*steps))
    assert f"run {RUN}: ended with exit code 7 (StorageError)" == Teller().line(found)


def test_a_run_that_was_killed_gives_way_to_the_next(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    write(RUN, event("start", 0, units=2, rows=20))
    quiet = [lambda: None] * int(SILENCE_SECONDS // 2)
    steps = [*quiet, lambda: write(NEW, event("start", 9, units=1, rows=10))]
    steps.append(lambda: write(NEW, event("end", 10, exit_code=0)))
    found = list(follow(str(tmp_path), script(*steps)))

    assert [(RUN, "start"), (RUN, "silent"), (NEW, "start"), (NEW, "end")] == [
        (e["run_id"], e["event"]) for e in found
    ]
    assert f"run {RUN}: no word for 5 min; was it killed?" == Teller().line(found[1])


def test_a_run_that_a_later_one_outlived_is_not_told_as_if_it_went_on(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    write(OLD, event("start", 0, units=2, rows=20), event("progress", 1, rows=10, tokens=1))
    write(RUN, event("start", 0, units=1, rows=10), event("end", 9, exit_code=0))
    steps = [lambda: write(NEW, event("start", 0), event("end", 1, exit_code=0))]
    found = list(follow(str(tmp_path), script(*steps)))

    assert [(NEW, "start"), (NEW, "end")] == [(e["run_id"], e["event"]) for e in found]


def test_events_of_the_real_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submitted run's log has the id of its job."""
    monkeypatch.setenv(RUN_ID, NEW)
    log = RunLog(open_store(str(tmp_path)), "")
    log.event("start", plan="p", units=1, rows=1)

    def end() -> None:
        log.event("end", exit_code=0)

    found = list(follow(str(tmp_path), script(end)))
    assert [(NEW, "start"), (NEW, "end")] == [(e["run_id"], e["event"]) for e in found]
