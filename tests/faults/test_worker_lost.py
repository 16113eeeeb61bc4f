"""A process that reads and tokenizes is killed: the run says so, and the same command resumes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.run import run
from pipeline.run import inline
from schemas.errors import TryAgain
from schemas.spec import Spec
from tests.faults.processes import parts

ROWS, UNITS = 80, 8


@pytest.mark.parametrize("wait", [0, 3], ids=["while it works", "when all that was asked is done"])
def test_a_killed_worker_ends_the_run_resumable(
    tmp_path: Path,
    tiny_bert: Path,
    write_texts: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    wait: float,
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

    right, begun = inline._encode, []

    def encode(*given: Any) -> Any:
        begun.append(given)
        if len(begun) == 2:
            time.sleep(wait)
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()
            time.sleep(0.5)  # the pool notices
        return right(*given)

    monkeypatch.setattr(inline, "_encode", encode)
    with pytest.raises(TryAgain, match="reads and tokenizes was killed") as caught:
        run(spec("out", 2))
    assert ("WORKER_LOST", 75) == (caught.value.code, caught.value.exit_code)

    assert UNITS == run(spec("out", 2)).to_json()["parts"]
    run(spec("calm", 1))
    assert parts(tmp_path / "calm") == parts(tmp_path / "out")
