"""`make test-busy`: what is the same in all rounds passes, what is not is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import LONG

ROOT = Path(__file__).resolve().parents[2]
STEADY = "def test_steady(): pass\n"
# Passes in the first round, fails in the second, and is skipped in the third.
MOODY = """
import pathlib
import pytest

def test_moody():
    count = pathlib.Path(__file__).with_name("count")
    count.write_text(count.read_text() + "." if count.exists() else ".")
    if len(count.read_text()) == 3:
        pytest.skip("tired")
    assert len(count.read_text()) == 1
"""


def busy(folder: Path, text: str, rounds: int) -> tuple[int, str]:
    """(exit code, what is printed) of so many rounds beside a neighbour."""
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, "tests/busy.py", "--neighbours=1", f"--rounds={rounds}", "-q", folder],
        capture_output=True, text=True, timeout=LONG, cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder / "temporary")},
    )  # fmt: skip
    assert [] == list((folder / "temporary").glob("em-busy-*")), "what neighbours wrote is gone"
    return done.returncode, done.stdout


def test_rounds_that_are_the_same(tmp_path: Path) -> None:
    code, said = busy(tmp_path, STEADY, 2)
    assert (0, True) == (code, "0 tests with different results, 0 of 2 rounds failed" in said), said


def test_a_test_with_several_results_is_named_with_all(tmp_path: Path) -> None:
    code, said = busy(tmp_path, STEADY + MOODY, 3)
    assert 1 == code
    assert "test_it::test_moody: passed, failed, skipped\n1 tests" in said
    assert "test_steady:" not in said


@pytest.mark.parametrize("text", ["def test_bad(): assert 0\n", "import nothing_like_it\n"])
def test_what_always_fails_is_no_success(tmp_path: Path, text: str) -> None:
    code, said = busy(tmp_path, text, 1)
    assert (1, True) == (code, "0 tests with different results, 1 of 1 rounds failed" in said), said
