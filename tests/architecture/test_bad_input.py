"""Every line of docs/bad-input.md has a test that is there; and what two of them say of code."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^\| ([A-Z]\d+) \|.*\| ([\w/]+)/(\w+): (\w+) \|$", re.MULTILINE)
LINES = LINE.findall((ROOT / "docs" / "bad-input.md").read_text("utf-8"))
LAST = {"F": 34, "R": 26, "M": 15, "C": 18, "S": 21}
NOT_OURS = {"S20"}
# Modules that unpickle, and from where: a pipe to a child, or Ray's own messages.
ROOMS = ("isolated", "on_ray", "ray_source", "worker")
UNPICKLES = {f"pipeline/run/{room}.py" for room in ROOMS}
# Where holes are known to be mended.
MENDED = {"pyarrow": (14, 0, 1), "ray": (2, 55), "torch": (2, 6)}


def test_every_line_is_there_once() -> None:
    wanted = {f"{kind}{n}" for kind, last in LAST.items() for n in range(1, last + 1)} - NOT_OURS
    assert sorted(line for line, *_ in LINES) == sorted(wanted)


@pytest.mark.parametrize(("line", "folder", "file", "name"), LINES, ids=[one[0] for one in LINES])
def test_a_line_has_its_test(line: str, folder: str, file: str, name: str) -> None:
    source = (ROOT / "tests" / folder / f"test_{file}.py").read_text("utf-8")
    assert re.search(rf"^(async )?def test_{name}\(", source, re.MULTILINE), line


def test_libraries_are_asked_for_in_versions_without_known_holes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = dict(re.findall(r"^([a-z]+)(?:\[\w+\])?>=([\d.]+)", "\n".join(project["dependencies"]),
                            re.MULTILINE))  # fmt: skip
    for name, mended in MENDED.items():
        assert tuple(map(int, asked[name].split("."))) >= mended, name


def test_only_messages_of_our_own_processes_are_unpickled() -> None:
    """Nothing that was read from storage: no pickle, no joblib, no torch.load, no unsafe YAML."""
    for room in ("schemas", "pipeline", "jobs"):
        for path in (ROOT / room).rglob("*.py"):
            where = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
                    wrong = {"pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle"}
                    assert where in UNPICKLES or not wrong & set(names), where
                if isinstance(node, ast.Call):
                    call = ast.unparse(node.func)
                    assert call not in ("torch.load", "yaml.load", "yaml.unsafe_load"), where
                    said = {keyword.arg for keyword in node.keywords}
                    assert "allow_pickle" not in said, where
                    assert not said & {"trust_remote_code"} or "False" in ast.unparse(node), where
