"""Compiled layers that are kept: what is loaded is what was checked, and nobody else wrote it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from embedmill.pipeline.encode.native import library as native

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
CODE = "int answer(void) { return 42; }\n"
PLANTED = """
#include <stdlib.h>
__attribute__((constructor)) static void run(void) { system("touch \\"$PLANTED_RAN\\""); }
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a small library is kept, compiled and kept once."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "packed.c").write_text(CODE)
    monkeypatch.setattr(native, "SOURCE", source)
    kept = tmp_path / "cache" / "embedmill" / "x.so"
    assert load(kept) == 42
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    return kept


def load(kept: Path) -> int:
    return native._load(["-shared", "-fPIC"], kept).answer()


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda _: None)


def test_what_is_kept_needs_no_compiler(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch)
    assert load(kept) == 42


@pytest.mark.parametrize("left", [0, 1000, 4096, 5000, -1, -33, -100])
def test_a_file_that_is_not_whole_is_made_again(kept: Path, left: int) -> None:
    """Loaded as it is, a truncated library would end the process with SIGBUS."""
    whole = kept.read_bytes()
    kept.write_bytes(whole[:left])
    assert load(kept) == 42
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_that_others_may_write_to_is_not_used(
    kept: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    kept.parent.chmod(mode)
    before = kept.stat().st_mtime_ns
    assert load(kept) == 42
    assert kept.stat().st_mtime_ns == before
    without_compiler(monkeypatch)
    with pytest.raises(FileNotFoundError, match="gcc"):
        load(kept)


def test_a_link_to_a_folder_is_not_used(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = kept.parent.rename(kept.parent.with_name("other"))
    kept.parent.symlink_to(other)
    without_compiler(monkeypatch)
    with pytest.raises(FileNotFoundError, match="gcc"):
        load(kept)


def test_a_planted_library_never_runs(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, source = tmp_path / "ran", tmp_path / "planted.c"
    monkeypatch.setenv("PLANTED_RAN", str(ran))
    source.write_text(PLANTED)
    command = ["gcc", "-shared", "-fPIC", str(source), "-o", str(tmp_path / "planted.so")]
    subprocess.run(command, check=True)
    shutil.copy(tmp_path / "planted.so", kept)
    assert load(kept) == 42
    assert not ran.exists()
    ctypes.CDLL(str(tmp_path / "planted.so"))
    assert ran.exists(), "the planted library would have run"


def test_a_home_that_takes_no_files_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packed.c").write_text(CODE)
    monkeypatch.setattr(native, "SOURCE", tmp_path)
    (tmp_path / "home").write_text("a file")
    assert load(tmp_path / "home" / "embedmill" / "x.so") == 42
