"""The order of the tests, and which of them share a process when several run side by side.

pytest-xdist gives each group to one process. A folder whose tests share servers is one group, so
that each server is started once; elsewhere a file is one, since its fixtures are shared. Groups
that take long begin first: the last ones are short, and no process waits long for the other.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SHARED = ("cluster", "pipeline/index", "pipeline/store")  # folders with servers of their own
# From the longest on, by measured seconds (docs/benchmarks/); all others come after these.
LONG = (
    "cluster",
    "pipeline/index",
    "faults/test_kills.py",
    "faults/test_crash_points.py",
    "pipeline/store",
    "parity",
    "faults",
    "jobs/test_tutorial.py",
    "pipeline/run",
    "pipeline/encode",
    "simulation",
    "jobs",
)


def group_of(path: Path) -> str:
    """The folder or the file whose tests run in one process."""
    name = _name(path)
    return next((folder for folder in SHARED if name.startswith(f"{folder}/")), name)


def rank(path: Path) -> int:
    """How early a test file comes: its place in LONG."""
    name = _name(path)
    return next((n for n, long in enumerate(LONG) if name.startswith(long)), len(LONG))


def _name(path: Path) -> str:
    """A test file by its place in tests/; one elsewhere, which a test has made, as it is."""
    return path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else path.as_posix()


class Order:
    """The plugin; registered by conftest.py."""

    @pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sorts the tests, and names the group of each for pytest-xdist."""
        items.sort(key=lambda item: rank(item.path))  # stable: within a file nothing moves
        for item in items:
            item.add_marker(pytest.mark.xdist_group(group_of(item.path)))
