"""Prints at the end how many seconds the tests of each folder took; pytest has the ten slowest."""

from __future__ import annotations

from collections import defaultdict

import pytest


class Timing:
    """The plugin; registered by conftest.py. With several processes the seconds add up all."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.count: dict[str, int] = defaultdict(int)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds a phase of a test to its folder."""
        folder = report.nodeid.partition("::")[0].rpartition("/")[0]
        self.seconds[folder] += report.duration
        self.count[folder] += report.when == "call"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line a folder, the longest first."""
        if len(self.seconds) < 2:
            return
        terminalreporter.section("seconds by folder")
        for folder in sorted(self.seconds, key=lambda name: -self.seconds[name]):
            line = f"{self.seconds[folder]:8.1f} s {self.count[folder]:6} tests  {folder}"
            terminalreporter.write_line(line)
