"""kill -9 of anything at any moment loses no row and changes no byte.

Of a two-shard run on Ray the driver is killed, then a reader and an encoder of the one that resumes
it; what is left is compared byte by byte with an undisturbed inline run.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.faults.kills import begin
from tests.faults.points import environment, wait_for
from tests.faults.processes import kill_driver, moment, parts, write_spec
from tests.patience import LONG, wait_until

DICTIONARY = Path(__file__).resolve().parents[2] / "jobs" / "specs" / "data" / "dictionary.parquet"
UNIT_ROWS, ROWS = 15, 300
UNITS = 2 * ROWS // UNIT_ROWS
# The first moment runs always; the others in the long suite.
MOMENTS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))]
READER, ENCODER = "CP4", "CP6"  # a unit was read; a unit comes into the encoder

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, write_texts: Callable[..., Path]) -> Path:
    """Two shards of dictionary entries."""
    folder = tmp_path_factory.mktemp("shards")
    rows = pq.read_table(DICTIONARY, columns=["id", "text"])
    for n in (0, 1):
        part = rows.slice(n * ROWS, ROWS)
        write_texts(
            folder / f"{n}.parquet", row_group_size=UNIT_ROWS, id=part["id"], text=part["text"]
        )
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, shards: Path, tiny_bert: Path
) -> dict[str, bytes]:
    """The parts of an inline run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = write_spec(
        folder / "spec.yaml", shards, str(tiny_bert), folder / "out", unit_rows=UNIT_ROWS
    )
    with begin(spec, "inline", folder / "run", {}) as run:
        assert (0, UNITS) == (run.wait(), len(parts(folder / "out"))), run.err.read_text()
    return parts(folder / "out")


@pytest.fixture
def spec(tmp_path: Path, shards: Path, tiny_bert: Path) -> Path:
    """The same job, into a folder of its own."""
    path = tmp_path / "spec.yaml"
    return write_spec(path, shards, str(tiny_bert), tmp_path / "out", unit_rows=UNIT_ROWS)


@pytest.mark.parametrize("seed", MOMENTS)
def test_a_killed_driver_resumes_and_killed_workers_are_replaced(
    spec: Path, tmp_path: Path, undisturbed: dict[str, bytes], seed: int
) -> None:
    """The run itself dies. The same command finishes it, although a reader and an encoder die.

    Each dies at a moment that a process of the run itself comes to. No finished unit is repeated.
    """
    output, first, second = tmp_path / "out", tmp_path / "first", tmp_path / "second"
    when = 1 + moment(seed, UNITS // 2)
    order = environment("CP12", signal.SIGSTOP, first, driver=True, hit=when)
    with begin(spec, "ray", tmp_path / "run", order) as run:
        driver, _ = wait_for(first, stopped=True, over=run.poll)
        assert driver == run.pid
        kill_driver(run)
    standing = parts(output)
    assert when <= len(standing) < UNITS
    assert standing == {name: undisturbed[name] for name in standing}

    order = environment(f"{READER} {ENCODER}", signal.SIGKILL, second, hit=1 + seed)
    with begin(spec, "ray", tmp_path / "again", order) as run:
        code, errors = run.wait(LONG), run.err.read_text()
    assert 0 == code, errors
    for kind in (READER, ENCODER):
        victim, _ = wait_for(second / kind, over=lambda: code)
        assert victim != run.pid, "a worker was killed"
    report = json.loads(run.out.read_text())
    assert (2 * ROWS, 0) == (report["rows_in"], report["rows_rejected"])
    assert len(standing) <= report["units_resumed"] < UNITS
    assert 2 * ROWS == report["rows_encoded"] + report["rows_deduplicated"] + report["rows_resumed"]
    assert undisturbed == parts(output)


@pytest.mark.slow
def test_a_node_that_dies_while_ray_starts_is_told(spec: Path, tmp_path: Path) -> None:
    """No bug of ours, and no traceback; the same command may be tried again."""
    with begin(spec, "ray", tmp_path / "run", {}) as run:
        family = psutil.Process(run.pid)
        raylets = wait_until(lambda: run.poll() is not None or raylets_of(family), "a raylet", LONG)
        assert run.poll() is None, run.err.read_text()
        for raylet in raylets:
            raylet.kill()
        code, errors = run.wait(LONG), run.err.read_text()

    assert (75, 1) == (code, errors.count("NO_CLUSTER")), errors
    assert "Traceback" not in errors


def raylets_of(driver: psutil.Process) -> list[psutil.Process]:
    """The raylets that a run has started; a process may end while it is asked."""
    try:
        return [one for one in driver.children(recursive=True) if one.name() == "raylet"]
    except psutil.NoSuchProcess:
        return []
