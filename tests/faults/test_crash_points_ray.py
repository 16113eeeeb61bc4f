"""The same moments on Ray: there each comes in the driver, in a worker, or in an encoder's actor.

What gets the signal is the process that came to the moment, or the driver while another process is
there. kill -9 and SIGTERM of a worker are Ray's to mend: the run itself goes on to its end.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.points import DRIVER, POINTS, environment, wait_for
from tests.faults.processes import finish, start
from tests.faults.scene import Scene
from tests.patience import SOON

KILL, TERM, STOP = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP
CASES = [
    (name, number, driver)
    for name, point in POINTS.items()
    for number in (KILL, TERM, STOP)
    for driver in (True, *([False] if point.role != DRIVER else []))
]

pytestmark = [pytest.mark.torture, pytest.mark.ray]


@pytest.mark.parametrize("scene", ["local", "s3"], indirect=True)
@pytest.mark.parametrize(
    ("name", "number", "driver"),
    CASES,
    ids=[f"{name}-{number.name}-{'driver' if d else 'there'}" for name, number, d in CASES],
)
def test_a_run_on_ray_that_is_hit_anywhere_is_finished(
    scene: Scene, tmp_path: Path, name: str, number: signal.Signals, driver: bool
) -> None:
    if scene.bucket and POINTS[name].scratch:
        pytest.skip("a bucket has no scratch files")
    scene.reset()
    more = environment(name, number, tmp_path, driver=driver, bucket=scene.bucket)
    victim = start(scene.spec, "--set", "run.runner=ray", **more)
    children: list[psutil.Process] = []
    try:
        hit, _ = wait_for(tmp_path, stopped=number == STOP)
        children = psutil.Process(victim.pid).children(recursive=True)
        if number == STOP:
            standing = scene.objects()
            scene.finish(tmp_path)
            os.kill(hit, signal.SIGCONT)
        code, _, errors = finish(victim)
        if number != STOP:
            psutil.wait_procs(children, timeout=SOON)  # who outlives the driver may still write
            standing = scene.objects()
            scene.finish(tmp_path)
    finally:
        victim.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    if not driver or number == STOP:
        assert code == 0, errors
    else:
        assert code in {KILL: {-9}, TERM: {-15, 143, 0}}[number], errors
    scene.check(standing, tmp_path)
