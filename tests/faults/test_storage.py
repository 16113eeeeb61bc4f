"""What a disk does to a run: it says so and ends, nothing torn is seen, and the next one ends well.

The run stands still just before it writes a part; then strace takes hold of that thread and makes
its next system call of a kind fail, or lie.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.points import environment, wait_for
from tests.faults.scene import Scene
from tests.patience import SOON, wait_until

pytestmark = pytest.mark.torture  # one of them failed once under load, and why is not known

# system call and what becomes of it -> what the run says
FAULTS = {
    "write:error=EIO": "STORAGE",
    "write:error=ENOSPC": "STORAGE_FULL",
    "write:error=EDQUOT": "STORAGE",
    "write:retval=1": "STORE_LIES",  # it says that one byte was written, and none was
    "fsync:error=EIO": "STORAGE",
    "close:error=EIO": "STORAGE",
    "read:error=EIO": "STORAGE",
    "link:error=EIO": "STORAGE",
    "link:error=EPERM": "NOT_WRITABLE",
}


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[] if "retval" in fault else pytest.mark.slow) for fault in FAULTS],
)
def test_a_disk_that_fails_or_lies_makes_nothing_visible(
    scene: Scene, tmp_path: Path, fault: str
) -> None:
    scene.reset()
    order = environment("WRITE", signal.SIGSTOP, tmp_path)
    with scene.run("victim", **order) as victim:
        pid, thread = wait_for(tmp_path, stopped=True)
        tracer = take_hold(thread, fault, tmp_path / "strace")
        os.kill(pid, signal.SIGCONT)
        code = victim.wait()
        tracer.wait(SOON)
    said = victim.err.read_text()
    assert (7, True) == (code, f"embedmill: {FAULTS[fault]}:" in said), said
    assert "Traceback" not in said
    standing = scene.objects()
    assert 2 <= sum(name not in scene.before for name in standing if name.startswith("data/")) < 6
    assert "_embed/manifest/000002.json" not in standing
    scene.finish(tmp_path)
    scene.check(standing, tmp_path)


def take_hold(thread: int, fault: str, log: Path) -> subprocess.Popen:
    """strace on one thread; skips where there is none, or where it may not."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    call = fault.partition(":")[0]
    tracer = subprocess.Popen(
        ["strace", "-o", str(log), "-p", str(thread), "-e", f"trace={call}"]
        + ["-e", f"inject={fault}:when=1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    status = Path(f"/proc/{thread}/status")
    wait_until(
        lambda: tracer.poll() is not None or "TracerPid:\t0" not in status.read_text(),
        "strace takes hold",
    )
    if tracer.poll() is not None:
        pytest.skip(f"strace may not trace: {tracer.stderr.read()}")
    return tracer


def test_a_full_disk_is_said_and_the_run_goes_on_where_there_is_room(
    scene: Scene, tmp_path: Path, mount: Callable[[str], Path]
) -> None:
    """A file system of its own that fills up in the middle of the run, and then grows."""
    rest = [data for name, data in scene.after.items() if not name.startswith("data/")]
    part = next(data for name, data in scene.after.items() if name.startswith("data/"))
    disk = mount(f"size={sum(map(pages, rest)) + 5 * pages(part)}")
    arguments = ("--set", f"output.path={disk / 'out'}")
    with scene.run("full", *arguments) as full:
        code, said = full.wait(), full.err.read_text()
    assert (7, True) == (code, "embedmill: STORAGE_FULL:" in said), said
    assert "Traceback" not in said
    parts = {path.name: path.read_bytes() for path in disk.glob("out/data/*/*")}
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    with scene.run("grown", *arguments) as grown:
        assert grown.wait() == 0, grown.err.read_text()
    after = {path.name: path.read_bytes() for path in disk.glob("out/data/*/*")}
    assert 0 < len(parts) < len(after) == 9
    assert parts.items() <= after.items()


def pages(data: bytes) -> int:
    """What a file takes of a file system in memory."""
    return -(-len(data) // 4096) * 4096
