"""A process that reads and tokenizes is killed: the run says so, and the same command resumes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from embedmill.jobs.run import run
from embedmill.pipeline.run import inline
from embedmill.schemas.errors import TryAgain
from embedmill.schemas.spec import Spec
from tests.conftest import ROOT
from tests.faults.points import environment, wait_for
from tests.faults.processes import finish, parts, start, write_spec
from tests.patience import LONG, SOON, wait_until

ROWS, UNITS = 80, 8


@pytest.mark.parametrize("idle", [False, True], ids=["as it works", "when all asked is done"])
def test_a_killed_worker_ends_the_run_resumable(
    tmp_path: Path,
    tiny_bert: Path,
    write_texts: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    idle: bool,
) -> None:
    """Its death is met where a result is taken, and where the next unit is given out."""
    texts = [f"yellow sour fruit {n}" for n in range(ROWS)]
    write_texts(tmp_path / "in" / "a.parquet", text=texts, id=[f"d{n}" for n in range(ROWS)])

    def spec(out: str, workers: int) -> Spec:
        return Spec.model_validate(
            {
                "input": {"path": str(tmp_path / "in"), "text": "text", "id": "id"},
                "model": {"name": str(tiny_bert)},
                "output": {"path": str(tmp_path / out)},
                "run": {
                    "runner": "inline", "device": "cpu", "workers": workers,
                    "unit_rows": ROWS // UNITS,
                },
            }
        )  # fmt: skip

    fill, right, begun, asked = inline._fill, inline._encode, [], []

    def fill_and_look(ahead: Any, waiting: Any, pool: Any, *more: Any) -> None:
        asked[:] = [ahead, pool]
        fill(ahead, waiting, pool, *more)

    def encode(*given: Any) -> Any:
        begun.append(given)
        if len(begun) == 2:
            ahead, pool = asked
            if idle:
                wait_until(lambda: all(one.done() for one in ahead), "what was asked is done")
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()
            wait_until(lambda: pool._broken, "the pool notices")
        return right(*given)

    monkeypatch.setattr(inline, "_fill", fill_and_look)
    monkeypatch.setattr(inline, "_encode", encode)
    with pytest.raises(TryAgain, match="reads and tokenizes was killed") as caught:
        run(spec("out", 2))
    assert ("WORKER_LOST", 75) == (caught.value.code, caught.value.exit_code)

    assert UNITS == run(spec("out", 2)).to_json()["parts"]
    run(spec("calm", 1))
    assert parts(tmp_path / "calm") == parts(tmp_path / "out")


SCRIPT = """
import embedmill
{guard}print(embedmill.run({spec!r}, "run.workers=1")["rows_in"])
"""


@pytest.fixture
def spec_of_texts(tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]) -> Path:
    """A job of many units."""
    texts = [f"yellow sour fruit {n}" for n in range(400)]
    write_texts(tmp_path / "in" / "a.parquet", text=texts, id=[str(n) for n in range(400)])
    return write_spec(
        tmp_path / "spec.yaml", tmp_path / "in", str(tiny_bert), tmp_path / "out",
        runner="inline", device="cpu", workers=1, unit_rows=2,
    )  # fmt: skip


@contextmanager
def asleep(spec: Path, point: Path) -> Iterator[subprocess.Popen]:
    """A run that stands still when it has committed its third unit."""
    driver = start(spec, **environment("CP12", signal.SIGSTOP, point, hit=3))
    try:
        wait_for(point, stopped=True, over=driver.poll)
        yield driver
    finally:
        driver.kill()


def test_a_killed_driver_leaves_no_worker(spec_of_texts: Path, tmp_path: Path) -> None:
    """They would wait for ever, and hold its memory and its stderr."""
    with asleep(spec_of_texts, tmp_path / "point") as driver:
        workers = psutil.Process(driver.pid).children(recursive=True)
    assert workers
    gone, alive = psutil.wait_procs(workers, timeout=SOON)
    assert not alive
    code, _, errors = finish(driver)
    assert (-9, False) == (code, "Traceback" in errors)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_for_all_processes_stops_the_run(
    spec_of_texts: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As a terminal or `timeout` sends it, in the middle of the run: no worker's death is told."""
    with asleep(spec_of_texts, tmp_path / "point") as driver:
        os.killpg(driver.pid, number)
        os.kill(driver.pid, signal.SIGCONT)
        code, _, errors = finish(driver)
    assert 128 + number == code, errors
    assert "Traceback" not in errors and "WORKER_LOST" not in errors


def test_a_signal_for_all_while_the_workers_start(spec_of_texts: Path) -> None:
    driver = start(spec_of_texts)
    wait_until(psutil.Process(driver.pid).children, "a worker starts")
    os.killpg(driver.pid, signal.SIGINT)
    code, _, errors = finish(driver)
    assert (130, False) == (code, "Traceback" in errors), errors


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_that_each_worker_would_run_again_says_so(
    spec_of_texts: Path, tmp_path: Path, guarded: bool
) -> None:
    guard = 'if __name__ == "__main__":\n    ' if guarded else ""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard, spec=str(spec_of_texts)))
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=LONG, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if guarded:
        assert (0, "400\n") == (ended.returncode, ended.stdout), ended.stderr
    else:
        assert ended.returncode
        assert 'embedmill: put the call under `if __name__ == "__main__":`' in ended.stderr
