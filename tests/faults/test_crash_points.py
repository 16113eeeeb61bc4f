"""A process of a refresh ends or stands still at a named moment; nothing is lost, twice or wrong.

Sixteen moments, from before the plan to the middle of the gc, times kill -9, SIGTERM, and SIGSTOP
until another run has done all the work: the one that was stopped goes on then, as a zombie. Each
history ends with the objects, to the byte, that an undisturbed refresh makes.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.points import POINTS, environment, wait_for
from tests.faults.scene import Scene

KILL, TERM, STOP = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP
# Of the matrix, a few cases that CI has time for.
SAMPLED = [("CP10", STOP), ("CP13", TERM), ("CP14", KILL)]
CASES = [
    pytest.param(name, number, marks=[] if (name, number) in SAMPLED else pytest.mark.torture)
    for name in POINTS
    for number in (KILL, TERM, STOP)
]


@pytest.mark.parametrize(
    "scene", ["local", pytest.param("s3", marks=pytest.mark.torture)], indirect=True
)
@pytest.mark.parametrize(
    ("name", "number"),
    CASES,
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_run_that_ends_anywhere_is_finished_by_the_next(
    scene: Scene, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    if scene.bucket and POINTS[name].scratch:
        pytest.skip("a bucket has no scratch files")
    scene.reset()
    order = environment(name, number, tmp_path, bucket=scene.bucket)
    with scene.run("victim", **order) as victim:
        hit, _ = wait_for(tmp_path, stopped=number == STOP)
        if number != STOP:
            code = victim.wait()
        standing = scene.objects()
        scene.finish(tmp_path)
        if number == STOP:
            os.kill(hit, signal.SIGCONT)
            code = victim.wait()
    if hit == victim.pid:
        assert code in {KILL: {-9}, TERM: {-15, 143, 0}, STOP: {0}}[number]
    else:  # a process that reads for it
        assert code in (75, 0)
    scene.check(standing, tmp_path)
    assert "Traceback" not in victim.err.read_text()
