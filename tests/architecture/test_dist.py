"""What `make dist` refuses to call a release."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.architecture.check_dist import NEEDED, main, project, source_problems, wheel_problems

NAME, VERSION = project()
INFO = f"{NAME}-{VERSION}.dist-info"
WHEEL = [*NEEDED, f"{INFO}/METADATA", f"{INFO}/licenses/LICENSE"]
SOURCE = [*NEEDED, "LICENSE", "README.md", "pyproject.toml"]


def write_wheel(folder: Path, names: list[str]) -> Path:
    """A wheel of empty files."""
    path = folder / f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "")
    return path


def write_source(folder: Path, names: list[str]) -> Path:
    """A source archive of empty files."""
    path = folder / f"{NAME}-{VERSION}.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name in names:
            file.addfile(tarfile.TarInfo(f"{NAME}-{VERSION}/{name}"), io.BytesIO())
    return path


def test_a_whole_release_has_no_problem(tmp_path: Path) -> None:
    write_wheel(tmp_path, WHEEL)
    write_source(tmp_path, SOURCE)
    assert 0 == main(tmp_path)


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ("jobs/cli.py", "top-level name jobs"),
        ("embedmill/tests/test_pack.py", "a test embedmill/tests/test_pack.py"),
    ],
)
def test_a_wheel_that_holds_too_much(tmp_path: Path, extra: str, problem: str) -> None:
    assert [problem] == wheel_problems(write_wheel(tmp_path, [*WHEEL, extra]))


def test_a_wheel_that_lacks_something(tmp_path: Path) -> None:
    assert [f"no {NEEDED[0]}"] == wheel_problems(write_wheel(tmp_path, WHEEL[1:]))
    assert ["no LICENSE"] == wheel_problems(write_wheel(tmp_path, WHEEL[:-1]))


def test_a_source_archive(tmp_path: Path) -> None:
    more = [*SOURCE, "tests/test_pack.py"]
    assert ["a test tests/test_pack.py"] == source_problems(write_source(tmp_path, more))
    assert ["no pyproject.toml"] == source_problems(write_source(tmp_path, SOURCE[:-1]))


def test_a_folder_without_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == main(tmp_path)
    assert 2 == capsys.readouterr().err.count("no embedmill-")
