"""Processes of a run are killed at random moments until the same command has ended the job.

`tests/bench/kills.py` plays as many such histories as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import Job, disturb, make_job

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(tmp_path_factory.mktemp("kills"))


@pytest.mark.parametrize(
    ("runner", "kills"), [("inline", 4), pytest.param("ray", 3, marks=pytest.mark.ray)]
)
def test_no_kill_loses_doubles_or_changes_a_row(
    job: Job, tmp_path: Path, runner: str, kills: int
) -> None:
    for seed in range(1, 6):  # a job may be over before its moment comes
        folder = tmp_path / str(seed)
        made = disturb(job, seed, runner, str(folder / "out"), folder / "runs", kills)
        if made["kills"]:
            break
    assert made["kills"], "five jobs ended before anything could be killed"
    assert (made["lost"], made["twice"], made["wrong"], made["equal"]) == (0, 0, 0, True)
    assert (made["manifests"], made["redone"]) == (1, 0)
    assert made["repeated"] <= made["in_flight"]
