"""The laws of the house, each held by a test. CONTRIBUTING.md names them."""

from __future__ import annotations

import ast
import inspect
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedmill.schemas import errors

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ("schemas", "pipeline", "jobs")
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
FIRST_READ = ("pipeline/README.md", "pipeline/batches.py", "pipeline/flow.py", "jobs/run.py")
HEAVY = ("ray", "torch", "transformers", "polars", "obstore")

PROBE = """
import sys
from embedmill.jobs.cli import main
sys.argv[0] = "embedmill"
try:
    main()
finally:
    print("imported", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def sources(*folders: str) -> list[Path]:
    """Our Python files."""
    files = [ROOT / "embedmill.py"] if "tests" not in folders else []
    files += [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if path.exists()]


def name(path: Path) -> str:
    """How a test is named after its file."""
    return str(path.relative_to(ROOT))


# --- imports go down, rooms are strangers, every guest has one room ---


def test_imports_keep_their_contracts():
    lint = Path(sys.executable).with_name("lint-imports")
    command = [str(lint), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- light start ---


def imported(*arguments: str, folder: Path = ROOT) -> set[str]:
    """Runs a command in a fresh process; the top-level modules that it has loaded at its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    return set(next(line for line in lines if line.startswith("imported ")).split()[1:])


@pytest.fixture
def spec(tmp_path, tiny_bert, write_texts) -> Path:
    """A small spec that plan accepts."""
    texts = write_texts(tmp_path / "texts.parquet", text=["a lemon", "a boat"], id=["1", "2"])
    path = tmp_path / "job.yaml"
    parts = {
        "input": {"path": str(texts), "text": "text", "id": "id"},
        "model": {"name": str(tiny_bert)},
        "output": {"path": str(tmp_path / "out")},
        "run": {"runner": "inline"},
    }
    path.write_text(json.dumps(parts), encoding="utf-8")
    return path


def test_help_imports_nothing_heavy():
    modules = imported("--help")
    assert "click" in modules  # the probe sees
    assert modules.isdisjoint(HEAVY)


def test_check_imports_nothing_heavy(spec):
    assert imported("check", str(spec)).isdisjoint(HEAVY)


def test_plan_imports_no_engine_and_no_ray(spec):
    assert imported("plan", str(spec)).isdisjoint({"torch", "transformers", "ray"})


# --- errors travel ---


def kinds(kind: type) -> Iterator[type]:
    """An error class and all below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


@pytest.mark.parametrize("kind", [*kinds(errors.EmbedmillError)], ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_with_its_fields(kind):
    count = len(inspect.signature(kind).parameters)
    before = kind(*[f"field {n}" for n in range(count)])
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert vars(after) == vars(before)
    assert (str(after), after.exit_code) == (str(before), before.exit_code)


# --- small ---


@pytest.mark.parametrize("path", sources(*HOUSE) + sources("tests"), ids=name)
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{lines} lines; {LONGEST_FILE} is the most"


def test_the_first_read_is_short():
    """The map, what flows, the corridor and one job: who has read them knows the system."""
    lines = sum(len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in FIRST_READ)
    assert lines <= 400, f"{lines} lines"


@pytest.mark.parametrize("path", sources(*HOUSE), ids=name)
def test_functions_are_short(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: n for f in functions if (n := f.end_lineno - f.lineno + 1) > LONGEST_FUNCTION}
    assert not long, f"longer than {LONGEST_FUNCTION} lines: {long}"


# A limit in numbers of its own.
LIMIT = re.compile(r"(timeout=|[.]timeout[(]|[.]wait[(]|[.]join[(]|monotonic[(][)] [+] )[0-9]")


@pytest.mark.parametrize("path", sources("tests"), ids=name)
def test_tests_give_up_by_patience_alone(path):
    if path.parent.name != "bench":
        text = path.read_text(encoding="utf-8")
        assert not LIMIT.search(text), "take SOON, LONG or HANG of tests/patience.py"


@pytest.mark.parametrize("path", sources(*HOUSE), ids=name)
def test_no_file_has_the_name_of_a_standard_module(path):
    # Ray puts the script's folder on every worker's path: a tokenize.py would break `import torch`.
    # What is compiled into the interpreter, such as gc, is found before any path.
    taken = sys.stdlib_module_names - set(sys.builtin_module_names)
    assert path.stem.startswith("__") or path.stem not in taken


# --- a path may have a space ---


def split_lines(code: str) -> list[int]:
    """Lines where `.split()` takes a text apart into which something was formatted."""
    nodes = list(ast.walk(ast.parse(code)))
    assigned = [node for node in nodes if isinstance(node, ast.Assign)]
    names = {
        target.id for node in assigned if isinstance(node.value, ast.JoinedStr)
        for target in node.targets if isinstance(target, ast.Name)
    }  # fmt: skip
    calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    split = [call for call in calls if call.func.attr == "split" and not call.args]
    return [
        call.lineno for call in split
        if isinstance(call.func.value, ast.JoinedStr)
        or isinstance(call.func.value, ast.Name) and call.func.value.id in names
    ]  # fmt: skip


def test_split_lines_are_seen():
    assert split_lines("line = f'run {path}'\nrun(line.split())\nrun(f'{a} b'.split())") == [2, 3]
    assert split_lines("line = 'run it'\nrun([*line.split(), path])") == []


@pytest.mark.parametrize("path", sources("tests"), ids=name)
def test_no_command_is_made_by_splitting_a_line_with_a_path_in_it(path):
    assert not split_lines(path.read_text(encoding="utf-8"))


# --- docs cannot drift ---


def test_reference_pages_are_what_the_code_says():
    generate = ROOT / "tests" / "architecture" / "generate_docs.py"
    code = (
        f"import runpy, pathlib; pages = runpy.run_path({str(generate)!r})['PAGES']\n"
        f"root = pathlib.Path({str(ROOT)!r})\n"
        "print(*[name for name in pages if not (root / name).exists()"
        " or (root / name).read_text(encoding='utf-8') != pages[name]()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split(), f"run `make docs`: {done.stdout}"
