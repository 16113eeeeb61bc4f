"""What the suite has left outside of its folder: it says so at its end, and fails.

A process is ours if it has our folder in its environment or command. Files do not say whose they
are: they are looked at where nobody else of this user could have made them meanwhile.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.private import VARIABLE, Private

SECONDS = 20  # in which what was told to end, ends
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # end with their maker
ALIKE = re.compile(
    r"(\S*/)?(pytest|embedmill|raylet|gcs_server|weed|rclone|chrom|npm)|ray::"
    r"|(\S*/)?python.*(pytest|embedmill|\bray\b|torch|multiprocessing|-m jobs)"
)
FILES = re.compile(
    r"embedmill|^\.?ray$|^plasma|pymp-|torch|triton|seaweedfs|weed\.|rclone|azurite|PostgreSQL"
    r"|psm_|huggingface|matplotlib|fontconfig|ipython|jupyter|^\.npm$|chrom"
)
BELOW_HOME = (".", ".cache", ".config", ".local/share")


class Left:
    """The hooks of the process that made the folder."""

    def __init__(self, private: Private) -> None:
        self.private, self.start = private, time.time()
        self.neighbour: str | None = None  # who could have made files like ours
        self.file: str | None = None
        self.found: list[str] = []

    def pytest_runtest_logstart(self, location: tuple[str, int | None, str]) -> None:
        """A neighbour may come and go: looked for at every file of tests."""
        if location[0] != self.file and not self.neighbour:
            self.file = location[0]
            self.neighbour = neighbour(self.private.folder)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """After all other ends, fixtures and workers; before the summary."""
        result = yield
        self.found += end_processes(self.private.folder)
        self.neighbour = self.neighbour or neighbour(self.private.folder)
        if not self.neighbour:
            self.found += [f"file {path}" for path in files(self.private, self.start)]
        if self.found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """A line for each thing that was left."""
        if self.found:
            terminalreporter.section("left outside of the suite's folder", red=True)
        for line in self.found:
            terminalreporter.line(line)
        if self.neighbour:
            line = f"files outside were not looked at: they could be those of {self.neighbour}"
            terminalreporter.line(line)

    def pytest_unconfigure(self) -> None:
        """Nothing is left of the folder."""
        self.private.remove()


def end_processes(folder: Path) -> list[str]:
    """Kills the suite's processes that do not end by themselves; whose they were."""
    _, alive = psutil.wait_procs(ours(folder), timeout=SECONDS)
    said = [_told(process) for process in alive]
    for process in alive:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(alive, timeout=SECONDS)
    return said


def ours(folder: Path) -> list[psutil.Process]:
    """Processes that work for the suite of a folder, without this one and its own."""
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            helper = process.ppid() == me.pid and any(name in command for name in HELPERS)
            if process.pid not in spared and not helper and _is_ours(process, command, folder):
                found.append(process)
        except psutil.Error:
            continue  # it is gone, or another user's
    return found


def neighbour(folder: Path) -> str | None:
    """A process of this user that does such work as ours, and not for this suite."""
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    for process in psutil.process_iter():
        try:
            if process.pid in spared or process.uids().real != os.getuid():
                continue
            command = " ".join(process.cmdline())
            if ALIKE.match(command) and not _is_ours(process, command, folder):
                return f"process {process.pid} ({command[:80]})"
        except psutil.Error:
            continue
    return None


def _is_ours(process: psutil.Process, command: str, folder: Path) -> bool:
    if process.status() == psutil.STATUS_ZOMBIE:
        return False
    return f"{folder}/" in command or process.environ().get(VARIABLE) == str(folder)


def _told(process: psutil.Process) -> str:
    try:
        test = process.environ().get("PYTEST_CURRENT_TEST", "no test")
        return f"process {process.pid} of {test}: {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"process {process.pid}"


def files(private: Private, start: float) -> list[Path]:
    """Files and folders of this user that are named as ours are and newer than the start."""
    places = {private.temporary, *map(Path, ("/tmp", "/var/tmp", "/dev/shm"))}
    places |= {private.home / name for name in BELOW_HOME}
    listed = (path for place in sorted(places) for path in _list(place))
    return [
        path for path in listed
        if FILES.search(path.name) and path != private.folder and _newer(path, start)
    ]  # fmt: skip


def _list(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except OSError:
        return []


def _newer(path: Path, start: float) -> bool:
    """Whether this user made or changed it, or anything in it, since then."""
    below = (Path(top, name) for top, inner, names in os.walk(path) for name in (*inner, *names))
    for one in (path, *below):
        try:
            about = one.lstat()
        except OSError:
            continue
        if about.st_uid == os.getuid() and about.st_mtime >= start:
            return True
    return False
