"""A clock that jumps changes nothing; input that is replaced while a run reads it ends the run."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.points import environment, wait_for
from tests.faults.scene import Scene

pytestmark = pytest.mark.slow


def test_a_clock_that_jumps_changes_no_byte(scene: Scene, tmp_path: Path) -> None:
    """Twenty minutes to and fro, at every look."""
    scene.reset()
    with scene.run("jumping", **environment("", 0, tmp_path, clock=True)) as jumping:
        assert jumping.wait() == 0, jumping.err.read_text()
    scene.check({}, tmp_path)
    scene.finish(tmp_path)
    scene.check({}, tmp_path)


@pytest.mark.parametrize("change", ["replaced", "gone", "longer"])
def test_input_that_changes_while_a_run_reads_it_ends_the_run(
    scene: Scene, tmp_path: Path, change: str
) -> None:
    """Exit 3 and one line; nothing wrong can be seen; with the old input all is as if never."""
    scene.reset()
    shard, kept = scene.folder / "shards" / "3.parquet", tmp_path / "kept"
    shutil.copy2(shard, kept)
    with scene.run("victim", **environment("CP4", signal.SIGSTOP, tmp_path)) as victim:
        pid, _ = wait_for(tmp_path, stopped=True)
        if change == "replaced":
            shutil.copy(scene.folder / "shards" / "0.parquet", shard)
        elif change == "gone":
            shard.unlink()
        else:
            shard.write_bytes(kept.read_bytes() + b"more")
        os.kill(pid, signal.SIGCONT)
        code = victim.wait()
    said = victim.err.read_text()
    assert code == 3, said
    assert "embedmill: INPUT_GONE" in said if change == "gone" else "INPUT_CHANGED" in said
    assert "Traceback" not in said
    standing = scene.objects()
    assert "_embed/manifest/000002.json" not in standing
    shutil.copy2(kept, shard)
    scene.finish(tmp_path)
    scene.check(standing, tmp_path)
