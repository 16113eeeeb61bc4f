"""The tutorials: what they tell a reader to type is typed here, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT
from tests.jobs.commandline import Bench
from tests.patience import LONG

BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_tutorial_does_what_it_says(
    minilm: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bench = Bench(tmp_path, minilm, capfd, monkeypatch)
    names: dict[str, object] = {}
    reports = []
    for kind, file, body in BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text("utf-8")):
        if file:
            Path(file).write_text(body, encoding="utf-8")
        elif kind == "python":
            exec(compile(body, "tutorial.md", "exec"), names)
        else:
            for line, promised in commands(body):
                code, out, err = bench.command(*shlex.split(line)[1:])
                assert code == 0, f"{line}\n{out}{err}"
                assert words(promised) in ("", words(out)), line
                reports += [out] if " run " in line else []

    first, second, third = reports
    assert "12 in = 11 encoded" in first
    assert "EMPTY_TEXT 1" in first
    assert "12 in = 2 encoded + 0 equal to another + 10 reused" in second
    assert "nothing was left to encode" in third
    assert "All went well" in Path("night.html").read_text(encoding="utf-8")


def test_the_notebook_does_what_it_says(minilm: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    here = {"metadata": {"path": str(tmp_path)}}

    NotebookClient(notebook, timeout=LONG, kernel_name="python3", resources=here).execute()

    printed = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert "nosuch" in str(printed[-1])
    assert (tmp_path / "vectors" / "data").is_dir()


def test_the_notebook_is_kept_without_what_it_printed() -> None:
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def commands(body: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the lines that it is said to print."""
    return [
        (line.partition("#")[0], printed)
        for line, _, printed in (part.partition("\n") for part in body.split("$ ")[1:])
    ]


def words(text: str) -> str:
    """A text without its numbers, which move in their last digits between machines."""
    return " ".join(re.sub(r"[\d.,]+", "#", text).split())
