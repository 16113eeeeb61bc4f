"""Everything is importable as `embedmill` and as nothing else, wherever the user stands.

The wheel is built once and unpacked into a folder of its own, in front of the libraries of this
environment: what runs is the wheel, from a folder whose own files bear our folders' names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
USERS = "raise SystemExit('the file of the user was imported')\n"
SCRIPT = """
import embedmill

if __name__ == "__main__":
    report = embedmill.run("job.yaml")
    hits = embedmill.search("out", "lemon", k=1)
    print(embedmill.__file__, report.get("rows_in"), hits["hits"][0]["id"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built as a user would."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files, and others may build beside this one
    wanted = {"embedmill", "jobs", "pipeline", "schemas", "pyproject.toml", "README.md", "LICENSE"}
    shutil.copytree(
        ROOT,
        source,
        symlinks=True,
        ignore=lambda path, names: {
            name
            for name in names
            if name == "__pycache__" or (Path(path) == ROOT and name not in wanted)
        },
    )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    if done.returncode and "setuptools" in done.stderr and "No matching" in done.stderr:
        pytest.skip("setuptools, which builds the wheel, cannot be had here")
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture
def users(tmp_path: Path, tiny_bert: Path, write_texts) -> Path:
    """A user's folder: a spec, texts, and files that bear the names of our folders."""
    write_texts(tmp_path / "in" / "0.parquet", id=["a", "b"], text=["a lemon", "a boat"])
    spec = {
        "input": {"path": "in", "text": "text", "id": "id"},
        "model": {"name": str(tiny_bert)},
        "output": {"path": "out"},
        "run": {"device": "cpu", "runner": "inline"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(spec))
    for name in ("jobs", "schemas"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(USERS)
    (tmp_path / "pipeline.py").write_text(USERS)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def run(folder: Path, *arguments: str, path: Path | None = None) -> str:
    """stdout of Python in a user's folder; `path` goes in front of what is installed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"embedmill", *(top for top in tops if top.endswith(".dist-info"))}
    assert len(tops) == 2
    assert "embedmill/py.typed" in names
    assert "embedmill/pipeline/encode/native/packed.c" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "/test" in name]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_wheel_runs_beside_a_users_own_names(wheel: Path, users: Path, workers: int) -> None:
    """Two workers: spawned processes import us again."""
    place = users / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place)
    spec = yaml.safe_load((users / "job.yaml").read_text())
    spec["run"]["workers"] = workers
    (users / "job.yaml").write_text(yaml.safe_dump(spec))

    ours, rows, first = run(users, "script.py", path=place).split()

    assert Path(ours) == place / "embedmill" / "__init__.py"
    assert (rows, first) == ("2", "a")


def test_the_checkout_runs_beside_a_users_own_names(users: Path) -> None:
    """As the editable installation has it; `python -m embedmill` is the command line."""
    said = run(users, "-m", "embedmill", "run", "job.yaml", "--json")
    assert '"rows_in": 2' in said


@pytest.mark.parametrize("name", ["jobs", "pipeline", "schemas"])
def test_a_folder_has_no_second_name(name: str) -> None:
    code = f"import {name}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"this folder is the package embedmill.{name}" in done.stderr


def test_errors_and_the_version_are_at_the_root() -> None:
    code = (
        "import sys, embedmill; from embedmill import EmbedmillError, SpecError, TryAgain; "
        "print(embedmill.__version__, issubclass(SpecError, EmbedmillError), "
        "*{'torch', 'ray', 'pyarrow', 'polars'} & set(sys.modules))"
    )
    version, *rest = run(ROOT, "-c", code).split()
    assert version[0].isdigit()
    assert ["True"] == rest  # importing it is light
