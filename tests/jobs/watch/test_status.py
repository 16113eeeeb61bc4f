"""Status tells from storage alone what is committed, what is open and what has no end."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from embedmill.jobs.watch.status import status, status_text
from embedmill.pipeline.run.log import RunLog
from embedmill.pipeline.snapshot.read import required, table
from embedmill.schemas.errors import ConflictError, SpecError
from tests.jobs.conftest import Output, run_by_hand


def log(output: Output, run_id: str, number: int, *lines: str) -> None:
    path = output.store.root / f"_embed/log/{run_id}/{number:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def event(name: str, **more: object) -> str:
    now = datetime.now(UTC) - timedelta(minutes=5)
    return json.dumps({"time": now.isoformat(timespec="seconds"), "event": name, **more})


def test_a_snapshot(made: Output) -> None:
    found = status(made.path)
    assert json.loads(json.dumps(found)) == found
    manifest = required(made.store).manifest
    snapshot = found["snapshot"]
    assert snapshot["generation"] == 1
    assert snapshot["manifest"] == "000001.json"
    assert (snapshot["rows"], snapshot["parts"]) == (158, 4)
    assert snapshot["rejects"] == {"EMPTY_TEXT": 1, "NULL_TEXT": 1}
    assert snapshot["fingerprint"] == manifest.fingerprint
    assert [column["name"] for column in snapshot["columns"]] == ["vector", "small", "raw"]
    assert (found["plans"], found["runs"]) == ([], [])
    assert "files" not in found
    text = status_text(found)
    assert "158 rows in 4 parts" in text
    assert "1 EMPTY_TEXT" in text


def test_files_are_the_parts_of_the_snapshot(copy: Output) -> None:
    (copy.store.root / "data/stray.parquet").write_bytes(b"")
    found = status(copy.path, files=True)
    paths = table(copy.store, required(copy.store).manifest).column("path").to_pylist()
    assert found["files"] == [f"{copy.path}/{path}" for path in paths]
    assert all(pq.read_metadata(file).num_rows for file in found["files"])
    assert status_text(found).splitlines() == found["files"]


def test_an_open_plan_and_what_is_done_of_it(made: Output, tmp_path: Path) -> None:
    output = made.spec.output.model_copy(update={"path": str(tmp_path / "out")})
    spec = made.spec.model_copy(update={"output": output})
    run_by_hand(spec, units=1)
    found = status(output.path)
    assert found["snapshot"] is None
    (plan,) = found["plans"]
    assert (plan["units"], plan["units_done"], plan["rows"], plan["rows_done"]) == (4, 1, 160, 50)
    assert "1 of 4 units, 50 of 160 rows (31 %)" in status_text(found)
    assert "no snapshot yet" in status_text(found)
    assert status(output.path, files=True)["files"] == []
    run_by_hand(spec)
    assert status(output.path)["plans"] == []


def test_an_open_plan_beside_a_snapshot(copy: Output, tmp_path: Path) -> None:
    source = shutil.copytree(copy.source, tmp_path / "in")
    spec = copy.spec.model_copy(
        update={"input": copy.spec.input.model_copy(update={"path": str(source)})}
    )
    run_by_hand(spec, units=0)
    found = status(copy.path)
    assert found["snapshot"]["generation"] == 1
    assert [(plan["generation"], plan["units_done"]) for plan in found["plans"]] == [(2, 0)]


def test_runs_without_an_end(copy: Output) -> None:
    log(copy, "ended", 0, event("start"), event("progress", rows=1))
    log(copy, "ended", 1, event("end", exit_code=0))
    log(copy, "going", 0, event("start", units=4), event("progress", rows=10))
    log(copy, "going", 1, event("progress", rows=20), event("progress", rows=30))
    log(copy, "garbage", 0, event("start"), "{", "7", "[]", '{"event": "other"}', "\udcff" * 0)
    log(copy, "empty", 0, "nothing", "")
    (copy.store.root / "_embed/log/garbage/000001.jsonl").write_bytes(b"\xff\x00\n")
    (copy.store.root / "_embed/log/going/stop").write_bytes(b"stop")
    runs = {run["run_id"]: run for run in status(copy.path)["runs"]}
    assert sorted(runs) == ["garbage", "going"]
    assert runs["going"]["last"]["rows"] == 30
    assert runs["going"]["stopping"] and not runs["garbage"]["stopping"]
    assert runs["garbage"]["last"]["event"] == "start"
    text = status_text(status(copy.path))
    assert "run going: has no end; last progress" in text
    assert "rows 30, 5 min ago" in text


def test_the_log_of_a_run_is_understood(copy: Output) -> None:
    run = RunLog(copy.store, "atomic")
    run.event("start", plan="p", units=1, rows=2)
    (found,) = status(copy.path)["runs"]
    assert (found["run_id"], found["last"]["event"]) == (run.run_id, "start")
    run.event("end", exit_code=0)
    assert status(copy.path)["runs"] == []


def test_a_last_event_without_a_time(copy: Output) -> None:
    log(copy, "odd", 0, '{"event": "progress"}')
    log(copy, "old", 0, '{"event": "start", "time": 7}')
    assert "run odd" in status_text(status(copy.path))


def test_a_folder_that_is_not_an_output(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.parquet").write_bytes(b"")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConflictError, match="NO_OUTPUT"):
            status(str(path))
        assert not issubclass(ConflictError, SpecError)
