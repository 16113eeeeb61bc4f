"""Where a command runs: without a terminal, a listener, a home, or room for temporary files."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.commandline import Bench

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(tmp_path: Path, tiny_bert: Path, write_texts, capfd, monkeypatch) -> Bench:
    folder = tmp_path / "my wörk"
    write_texts(folder / "in" / "a.parquet", text=["apple", "bee"])
    return Bench(folder, tiny_bert, capfd, monkeypatch)


def shell(line: str, **more: str) -> subprocess.CompletedProcess:
    """A line of the shell in which `embedmill` is the command line."""
    line = f'embedmill() {{ "$PYTHON" -m embedmill "$@"; }}; {line}'
    environ = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environ)


def quoted(path: Path) -> str:
    return shlex.quote(str(path))


def done(bench: Bench) -> bool:
    return (bench.folder / "out" / "_embed" / "manifest" / "000001.json").exists()


@pytest.mark.parametrize(
    "end",
    [
        "2>&1 | true",  # nobody reads what it says, and it says something before it is done
        ">&- 2>&-",
        "< /dev/null 2> /dev/full",
    ],
)
def test_a_run_goes_on_when_nobody_listens(bench: Bench, end: str) -> None:
    made = shell(f"set -o pipefail; embedmill run {quoted(bench.spec())} {end}")
    assert made.returncode == 0, made.stderr
    assert done(bench)


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "at once"])
def test_data_that_does_not_fit_is_an_error_and_a_reader_who_leaves_is_none(
    bench: Bench, unbuffered: str
) -> None:
    assert bench.run()[0] == 0
    out, how = quoted(bench.folder / "out"), {"PYTHONUNBUFFERED": unbuffered}
    for json in ("", " --json"):
        full = shell(f"embedmill status {out}{json} > /dev/full", **how)
        assert (full.returncode, full.stderr.count("\n")) == (7, 1), full.stderr
        assert "no space left" in full.stderr
    gone = shell(f"set -o pipefail; embedmill status {out} | true", **how)
    assert (gone.returncode, gone.stderr) == (0, "")
    closed = shell(f"embedmill status {out} >&-", **how)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_no_home_and_no_room_for_temporary_files(
    bench: Bench, mount: Callable[[str], Path]
) -> None:
    """File systems that are read-only, and one that is full from the start."""
    full = str(mount("size=4k,nr_inodes=1"))
    environ = {"HOME": str(mount("ro")), "TMPDIR": full, "XDG_CACHE_HOME": str(mount("ro"))}
    made = shell(f"embedmill run {quoted(bench.spec())}", **environ)
    assert made.returncode == 0, made.stderr
    assert done(bench)


@pytest.mark.parametrize("place", ["in", "in/", "."])
def test_an_output_that_is_the_input_or_above_it(bench: Bench, place: str) -> None:
    bench.refuses(3, "INPUT_INSIDE_OUTPUT", output__path=f"{bench.folder}/{place}")


def test_what_needs_no_store_is_checked_before_one_is_tried(
    bench: Bench, mount: Callable[[str], Path]
) -> None:
    """Of an output that cannot be written to and is above its input, the second is said."""
    root = mount("ro")
    bench.refuses(3, "INPUT_INSIDE_OUTPUT", input__path=f"{root}/in", output__path=str(root))


def test_the_root_of_all_is_no_output(bench: Bench) -> None:
    bench.refuses(3, "INPUT_INSIDE_OUTPUT", output__path="/")


def test_an_output_that_is_read_only_is_found_before_anything_is_encoded(
    bench: Bench, mount: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedmill.jobs.run.make_plan", lambda *_: pytest.fail("the plan was made"))
    bench.refuses(7, "NOT_WRITABLE", output__path=str(mount("ro") / "out"))


def test_the_folder_of_scratch_files_is_for_this_user_alone(bench: Bench) -> None:
    assert bench.run()[0] == 0
    scratch = bench.folder / "out" / "_embed" / "scratch"
    assert scratch.stat().st_mode & 0o077 == 0
    assert list(scratch.iterdir()) == []
