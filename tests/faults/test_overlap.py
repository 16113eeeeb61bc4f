"""Two runs on one output at once, as overlapping schedules start them: each a process of its own.

What overlaps is a refresh: most rows reuse vectors of parts that the faster run will collect.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from embedmill.jobs.run import run
from embedmill.jobs.verify.output import verify
from embedmill.jobs.watch.status import status
from embedmill.schemas.spec import Spec
from tests.faults.kills import Process, begin, ended
from tests.faults.points import environment, wait_for
from tests.faults.processes import parts, write_spec
from tests.jobs.conftest import texts

UNITS, UNIT_ROWS = 12, 40


@pytest.fixture
def spec(tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]) -> Path:
    """A job with a snapshot, and shards that have been rewritten under new names since."""
    settings = {"unit_rows": UNIT_ROWS, "runner": "inline", "device": "cpu"}
    path = write_spec(
        tmp_path / "job.yaml", tmp_path / "in", str(tiny_bert), tmp_path / "out", **settings
    )
    write_shards(tmp_path / "in", write_texts, "old", 0)
    run(Spec.model_validate(yaml.safe_load(path.read_text("utf-8"))))
    for shard in (tmp_path / "in").iterdir():
        shard.unlink()
    write_shards(tmp_path / "in", write_texts, "new", 5)
    return path


def write_shards(folder: Path, write: Callable[..., Path], name: str, changed: int) -> None:
    """Shards of one unit each, in which so many rows of each are of that name alone."""
    for n in range(UNITS):
        rows = [f"{text} {n} {i}" for i, text in enumerate(texts(UNIT_ROWS + 1))][:UNIT_ROWS]
        rows[:changed] = [f"{name} {row}" for row in rows[:changed]]
        ids = [f"{n}-{i}" for i in range(UNIT_ROWS)]
        write(folder / f"{name}-{n:02d}.parquet", text=rows, id=ids)


@contextmanager
def asleep(spec: Path, folder: Path, units: int = 2) -> Iterator[Process]:
    """A run that stands still, with all its threads, when it has committed some of its units."""
    order = environment("CP12", signal.SIGSTOP, folder / "point", hit=units)
    with begin(spec, "inline", folder, order) as run:
        wait_for(folder / "point", stopped=True, over=run.poll)
        yield run


def whole(output: Path, parts: int) -> None:
    """Two snapshots were made in all, and the second is exactly what is there."""
    assert 2 == len(list(output.glob("_embed/manifest/*.json")))
    found = verify(str(output))
    assert ([], parts) == (found["problems"], found["parts"])
    assert parts == len(list(output.glob("data/*/*.parquet")))


def test_a_run_killed_at_half_and_two_that_overlap_end_in_one_snapshot(
    spec: Path, tmp_path: Path
) -> None:
    """The two are started together after it, and go on where it was."""
    output = spec.parent / "out"
    with asleep(spec, tmp_path / "killed", UNITS // 2):
        pass  # and is killed
    standing = len(parts(output)) - UNITS  # the old snapshot's are there, too
    assert UNITS // 2 <= standing < UNITS
    with (
        begin(spec, "inline", tmp_path / "one", {}) as one,
        begin(spec, "inline", tmp_path / "other", {}) as other,
    ):
        ends = [ended(one), ended(other)]

    assert [0, 0] == [code for code, _, _ in ends], ends
    reports = [json.loads(out) for _, out, _ in ends]
    assert {"_embed/manifest/000002.json"} == {report["manifest"] for report in reports}
    assert {UNITS * UNIT_ROWS} == {report["rows_in"] for report in reports}
    assert all(standing <= report["units_resumed"] for report in reports)
    whole(output, UNITS)


@pytest.mark.slow
def test_a_run_that_slept_adopts_what_another_has_finished_meanwhile(
    spec: Path, tmp_path: Path
) -> None:
    """Its successor resumes its plan, commits the snapshot and collects what both reuse from."""
    output = spec.parent / "out"
    with asleep(spec, tmp_path / "sleeper") as sleeper:
        seen = status(str(output))
        with begin(spec, "inline", tmp_path / "successor", {}) as run:
            code, out, errors = ended(run)
        os.kill(sleeper.pid, signal.SIGCONT)
        late, late_out, late_errors = ended(sleeper)

    (plan,), (sleeping,) = seen["plans"], seen["runs"]
    assert (UNITS, "start") == (plan["units"], sleeping["last"]["event"])
    assert 2 <= plan["units_done"] < UNITS
    assert (0, 0) == (code, late), errors + late_errors
    reports = [json.loads(text) for text in (out, late_out)]
    assert 2 <= reports[0]["units_resumed"]
    assert reports[0]["manifest"] == reports[1]["manifest"]
    assert [] == status(str(output))["runs"]
    whole(output, UNITS)


def test_of_two_runs_with_other_plans_one_makes_the_snapshot(
    spec: Path, tmp_path: Path, write_texts: Callable[..., Path]
) -> None:
    """The input changed while the first slept: it ends with 6, and harms nothing."""
    output = spec.parent / "out"
    with asleep(spec, tmp_path / "sleeper") as sleeper:
        write_texts(spec.parent / "in" / "one-more.parquet", id=["x"], text=["lemon"])
        with begin(spec, "inline", tmp_path / "successor", {}) as run:
            code, _, errors = ended(run)
        os.kill(sleeper.pid, signal.SIGCONT)
        late, _, late_errors = ended(sleeper)

    assert (0, 6) == (code, late), errors + late_errors
    assert "OUTPUT_CONFLICT" in late_errors
    assert "Traceback" not in late_errors
    whole(output, UNITS + 1)
