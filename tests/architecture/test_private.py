"""The suite writes into a folder of its own, removes it, and fails if it has left something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import private
from tests.left import files
from tests.patience import LONG
from tests.private import VARIABLE, Private

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
import os, pathlib, subprocess, sys, tempfile, time

def test_where(tmp_path):
    said = [os.environ["EMBEDMILL_TESTS"], tempfile.gettempdir(), os.path.expanduser("~")]
    said += [str(tmp_path), str(pathlib.Path.home())]
    pathlib.Path(os.environ["SAID"]).write_text("\\n".join(said), "utf-8")
    if os.environ.get("LEAVES"):
        command = [sys.executable, "-c", "import time; time.sleep(900)"]
        subprocess.Popen(command, start_new_session=True)
    pathlib.Path(tmp_path, "locked").mkdir(mode=0)
    while os.environ.get("WAITS"):
        time.sleep(0.1)
"""
FAR = 150  # letters of a folder's path, too many for a socket below it


@pytest.fixture
def suite(tmp_path: Path) -> list[str]:
    """The command of a suite of one test, with this suite's conftest.py."""
    hooks = "from tests import left\nfrom tests.conftest import pytest_configure\n"
    (tmp_path / "conftest.py").write_text(hooks + "left.SECONDS = 1\n")
    (tmp_path / "test_one.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml")]
    return [*command, "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Of a user who starts a suite; their temporary files lie far down."""
    far = folder / ("x" * (FAR - len(str(folder))))
    far.mkdir(parents=True, exist_ok=True)
    outer = {key: value for key, value in os.environ.items() if key != VARIABLE}
    places = {"HOME": str(folder / "home"), "TMPDIR": str(far), "SAID": str(folder / "said")}
    return {**outer, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(far), **places, **more}


def test_all_is_in_one_short_folder_that_goes_away(suite: list[str], tmp_path: Path) -> None:
    around = environment(tmp_path)
    made = subprocess.run(suite, env=around, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout
    folder, *places = (tmp_path / "said").read_text("utf-8").split("\n")
    assert all(place.startswith(folder) for place in places)
    assert len(folder + private.SOCKET) - 1 <= private.LONGEST
    assert not Path(folder).exists()
    assert not list(Path(around["TMPDIR"]).iterdir()) and not Path(around["HOME"]).exists()


def test_it_goes_away_after_ctrl_c_too(suite: list[str], tmp_path: Path) -> None:
    around = environment(tmp_path, WAITS="1")
    process = subprocess.Popen(suite, env=around, stdout=subprocess.PIPE, text=True)
    said = tmp_path / "said"
    while process.poll() is None and not (said.exists() and said.read_text("utf-8")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=LONG)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, out
    assert not Path(said.read_text("utf-8").split("\n")[0]).exists()


def test_a_process_that_is_left_fails_the_suite_and_is_ended(
    suite: list[str], tmp_path: Path
) -> None:
    around = environment(tmp_path, LEAVES="1")
    made = subprocess.run(suite, env=around, capture_output=True, text=True)
    assert made.returncode == pytest.ExitCode.TESTS_FAILED, made.stdout
    (line,) = (line for line in made.stdout.split("\n") if line.startswith("process "))
    assert "test_one.py::test_where" in line and "time.sleep(900)" in line
    assert not psutil.pid_exists(int(line.split()[1]))


@pytest.mark.parametrize(
    "name", ["tmp/ray/session/logs", "tmp/pymp-abc", "home/.cache/embedmill/x.so", "home/.ray/x"]
)
def test_a_file_that_is_left_is_told(tmp_path: Path, name: str) -> None:
    place = Private(tmp_path / "tmp" / "em-mine", tmp_path / "home", tmp_path / "tmp")
    place.folder.mkdir(parents=True)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    (tmp_path / "tmp" / "another's").write_text("")

    def told(start: float) -> list[str]:
        return [
            str(one.relative_to(tmp_path))
            for one in files(place, start)
            if one.is_relative_to(tmp_path)
        ]

    start = path.stat().st_mtime
    assert [name.startswith(one) for one in told(start)] == [True]
    os.utime(path, (1, 1))
    old = [path, *path.parents][: len(Path(name).parts)]
    for one in old:
        os.utime(one, (1, 1))
    assert told(start) == []  # it was there before
