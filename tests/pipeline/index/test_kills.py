"""kill -9 in the middle of a load: searchers see nothing of it, and the next load ends equal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedmill.schemas.spec_file.load import dump_spec
from tests.conftest import ROOT
from tests.pipeline.index.conftest import Follower, Stage, spec_of

Stages = dict[str, Stage]
AFTER = 8  # batches asked for; a sink reads some ahead of what it has written


def kill_while_indexing(follower: Follower, stage: Stage, tmp_path: Path, after: int) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(dump_spec(spec_of(stage.out, stage.out, stage.out, [follower.entry])))
    command = [sys.executable, "-m", "tests.pipeline.index.killed", str(after), str(spec)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def test_a_first_load_goes_on_where_it_was(
    follower: Follower, stages: Stages, tmp_path: Path
) -> None:
    base = stages["base"]
    follower.out = base.out
    kill_while_indexing(follower, base, tmp_path, AFTER)
    assert follower.loaded() is None, "half a load was seen"
    report = follower.index()
    assert report["records"] == base.rows
    resumed = follower.entry["sink"] != "faiss"  # whose index is in memory until it is whole
    assert (report["added"] < base.rows) is resumed
    fresh = follower.elsewhere()
    fresh.index()
    assert follower.content() == fresh.content()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "after"), [("other rows", AFTER), ("other rows", -1), ("edited", 1), ("edited", -1)]
)
def test_what_searchers_see_stays_until_the_change_is_whole(
    follower: Follower, stages: Stages, tmp_path: Path, stage: str, after: int
) -> None:
    """Lance's one commit is before the check, and a server of Qdrant has no transactions."""
    follower.index(stages["base"].out)
    old, loaded = follower.content(), follower.loaded()
    kill_while_indexing(follower, stages[stage], tmp_path, after)
    seen, said = follower.content(), follower.loaded()
    follower.index(stages[stage].out)
    fresh = follower.elsewhere()
    fresh.index()
    new = fresh.content()
    assert follower.content() == new != old

    lance, in_place = follower.entry["sink"] == "lance", stage == "edited"
    done_early = after < 0 and (lance or ("url" in follower.entry and in_place))
    if "url" in follower.entry and in_place and after >= 0:  # the new is there, the old as well
        assert old.items() <= seen.items() <= {**old, **new}.items()
    else:
        assert seen == (new if done_early else old)
    assert said == (None if done_early and not in_place else loaded), "it is not yet published"
