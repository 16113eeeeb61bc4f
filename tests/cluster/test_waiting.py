"""A submitted job that does not start: submit says what it waits for, or that it never will."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedmill.jobs.cluster.waiting import EVERY_SECONDS, FIRST_SECONDS, Waiting
from embedmill.schemas.errors import TryAgain
from tests.patience import LONG

from .conftest import ROOT, end_processes_of, free_port

Make = Callable[..., tuple[Path, Path]]


@pytest.fixture
def spaced() -> Iterator[tuple[str, dict[str, str]]]:
    """A cluster whose Python is in a folder with a space: (url, environment of its user)."""
    base = Path(tempfile.mkdtemp(prefix="em-"))
    place = base / "my wörk"
    (place / "bin").mkdir(parents=True)
    (base / "home").mkdir()
    (place / "lib").symlink_to(Path(sys.prefix) / "lib")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", place)
    (place / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    user = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    user |= {"HOME": str(base / "home"), "RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT)}
    ray = [str(place / "bin" / "python"), "-m", "ray.scripts.scripts"]
    port, client = free_port(), free_port()
    start = [*ray, "start", "--head", "--port=0", f"--dashboard-port={port}", "--num-cpus=1"]
    start += [f"--ray-client-server-port={client}", "--dashboard-host=127.0.0.1"]
    start += ["--node-ip-address=127.0.0.1", f"--temp-dir={base / 'r'}", "--disable-usage-stats"]
    start += ["--dashboard-agent-listen-port=0", "--metrics-export-port=0"]
    try:
        for command in ([*ray, "get-auth-token", "--generate"], start):
            done = subprocess.run(command, env=user, capture_output=True, text=True, timeout=LONG)
            assert done.returncode == 0, done.stdout + done.stderr
        yield f"http://127.0.0.1:{port}", user
    finally:
        end_processes_of(base)
        shutil.rmtree(base, ignore_errors=True)


@pytest.mark.ray
def test_a_job_that_can_never_start_ends_with_its_cause(
    spaced: tuple[str, dict[str, str]], job: Make
) -> None:
    url, user = spaced
    spec, _ = job(10)
    command = [sys.executable, "-m", "embedmill", "submit", str(spec), "--address", url]
    done = subprocess.run(command, env=user, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 75, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for word in ("CANNOT_START", "my: No such file or directory", "without spaces"):
        assert word in last
    assert "Traceback" not in done.stderr


class Cluster:
    """What a dashboard answers; a pending job asks it."""

    def __init__(self, **answers: object) -> None:
        self.answers, self.stopped = answers, []

    def _do_request(self, _: str, path: str) -> SimpleNamespace:
        if "logs" in path:
            return SimpleNamespace(text=self.answers.get("log", ""))
        nodes = {"data": {"summary": [{"raylet": {"nodeId": "ab"}}]}}
        status = self.answers.get("status", {}) if "cluster_status" in path else nodes
        return SimpleNamespace(json=lambda: status)

    def stop_job(self, run_id: str) -> None:
        self.stopped.append(run_id)


def test_it_says_first_after_some_seconds_and_then_once_a_minute(capsys) -> None:
    now = [0.0]
    usage = {"usage": {"CPU": [2.0, 2.0], "memory": [1, 2]}, "resourceDemand": [[{"CPU": 4.0}, 3]]}
    status = {"data": {"clusterStatus": {"loadMetricsReport": usage}}}
    waiting = Waiting(Cluster(status=status), "r1", clock=lambda: now[0])
    said = []
    for second in range(200):
        now[0] = second
        if waiting.due():
            waiting.look("PENDING", "")
            said.append(second)
    assert said == [FIRST_SECONDS + n * EVERY_SECONDS for n in range(len(said))]
    assert len(said) >= 3
    err = capsys.readouterr().err
    assert err.count("\n") == len(said)
    assert "2 of 2 CPU in use; asked for: 3 times {'CPU': 4.0}" in err


@pytest.mark.parametrize("answers", [{}, {"status": []}, {"status": {"data": None}}])
def test_a_cluster_that_does_not_say_is_no_error(capsys, answers: dict) -> None:
    Waiting(Cluster(**answers), "r1").look("PENDING", "Job has not started yet.")
    assert "the job waits: Job has not started yet." in capsys.readouterr().err


def test_a_job_that_can_never_start_is_stopped() -> None:
    cluster = Cluster(log="1bash: line 1: /a/b: Permission denied\n")
    with pytest.raises(TryAgain, match=r"CANNOT_START.*/a/b: Permission denied"):
        Waiting(cluster, "r1").look("PENDING", "")
    assert cluster.stopped == ["r1"]
