"""The READMEs of pipeline/ and jobs/ draw what `ls` shows, and every question has its file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `([\w./]+)` \|", re.MULTILINE)
QUESTION = re.compile(r"^\| (who [^|]+) \| `([\w./]+)` \|$", re.MULTILINE)


def shown(folder: Path) -> set[str]:
    """What `ls` shows of a folder of the package: files, and folders with a slash."""
    names = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    inside = (path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__")
    return names | {f"{path.name}/" for path in inside}


@pytest.mark.parametrize("name", ["pipeline", "jobs"])
def test_the_map_names_what_is_there_and_nothing_else(name: str) -> None:
    table = (ROOT / name / "README.md").read_text("utf-8").partition("## Where is it?")[0]
    assert sorted(ROW.findall(table)) == sorted(shown(ROOT / name))


def test_every_question_has_a_file_within_two_steps() -> None:
    found = QUESTION.findall((ROOT / "pipeline" / "README.md").read_text("utf-8"))
    assert len(found) == 5
    for question, name in found:
        assert (ROOT / "pipeline" / name).is_file(), question
        # `ls pipeline`, then one folder, then a file, or a folder whose main file has its name
        *folders, file = Path(name).parts
        assert len(folders) == 1 or [Path(file).stem] == folders[1:], question


def test_every_module_of_the_tests_mirror_is_in_a_folder_of_the_package() -> None:
    """tests/pipeline/plan tests pipeline/plan: a folder there that is none here is misnamed."""
    for name in ("pipeline", "jobs", "schemas"):
        here = {path.name for path in (ROOT / name).iterdir() if path.is_dir()}
        there = {path.name for path in (ROOT / "tests" / name).iterdir() if path.is_dir()}
        assert there - {"__pycache__"} <= here, name
