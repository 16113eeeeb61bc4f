"""Checks what `make dist` built: one top-level name, the licence, what the package needs, no tests.

python tests/architecture/check_dist.py FOLDER prints each problem and ends with 1 if there is one.
"""

from __future__ import annotations

import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = (
    "embedmill/py.typed",
    "embedmill/jobs/page/page.html",
    "embedmill/jobs/specs/quickstart.yaml",
    "embedmill/pipeline/encode/native/packed.c",
)


def project() -> tuple[str, str]:
    """The name and the version that pyproject.toml gives."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table["name"], table["version"]


def wheel_problems(path: Path) -> list[str]:
    """What a wheel lacks, and what it holds too much."""
    name, version = project()
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
    info = f"{name}-{version}.dist-info"
    tops = {one.partition("/")[0] for one in names}
    problems = [f"top-level name {top}" for top in sorted(tops - {name, info})]
    if f"{info}/licenses/LICENSE" not in names:
        problems.append("no LICENSE")
    return problems + _problems(names)


def source_problems(path: Path) -> list[str]:
    """What a source archive lacks, and what it holds too much."""
    name, version = project()
    with tarfile.open(path) as file:
        names = [member.name for member in file.getmembers() if not member.isdir()]
    folder = f"{name}-{version}/"
    problems = [f"outside {folder} {one}" for one in names if not one.startswith(folder)]
    inside = [one.removeprefix(folder) for one in names]
    problems += [
        f"no {one}" for one in ("LICENSE", "README.md", "pyproject.toml") if one not in inside
    ]
    return problems + _problems(inside)


def _problems(names: list[str]) -> list[str]:
    tests = [name for name in names if "tests" in name.split("/") or "/test_" in f"/{name}"]
    return [
        *(f"a test {name}" for name in tests),
        *(f"no {name}" for name in NEEDED if name not in names),
    ]


def main(folder: Path) -> int:
    """Prints the problems of the one wheel and the one source archive in a folder."""
    name, version = project()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    source = folder / f"{name}-{version}.tar.gz"
    problems = [f"{folder}: no {path.name}" for path in (wheel, source) if not path.exists()]
    if not problems:
        problems += [f"{wheel.name}: {problem}" for problem in wheel_problems(wheel)]
        problems += [f"{source.name}: {problem}" for problem in source_problems(source)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{wheel.name} and {source.name} hold {name}, its licence, and no tests")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
