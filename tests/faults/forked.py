"""Starts runs that need no second to start: forked from a server that has imported all of it.

Each is a process of its own, which can be killed, stopped and waited for as any other. For runs on
Ray see processes.py.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from tests.patience import LONG

# Imported and not used: what has threads of its own must not be used before a fork.
PRELOAD = [
    "tests.faults.forked",
    "embedmill.jobs.cli",
    "embedmill.jobs.run",
    "embedmill.pipeline.run.inline",
    "embedmill.pipeline.encode.load",
]


class Forked:
    """`embedmill ARGS` as a process."""

    def __init__(self, folder: Path, *args: str, **environment: str) -> None:
        """`folder`: for what it prints."""
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "out", folder / "err"
        # Arrow's allocator would keep a thread in the server, and what is forked then has no such.
        os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(PRELOAD)
        self._process = server.Process(target=_main, args=(args, environment, self.out, self.err))
        self._process.start()
        self.pid = self._process.pid

    def wait(self, timeout: float = LONG) -> int:
        """The exit code; minus the signal if one ended it."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.send(signal.SIGKILL)
            raise TimeoutError(f"a run did not end in {timeout:,.0f} s: {self.err.read_text()}")
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def send(self, number: int) -> None:
        """A signal to the run."""
        os.kill(self.pid, number)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.exitcode is None:
            self.send(signal.SIGKILL)
            self._process.join()


def _main(args: tuple[str, ...], environment: dict[str, str], out: Path, err: Path) -> None:
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.environ.update(environment)
    from tests.faults import points

    if points.VARIABLE in os.environ:
        points.arm()
    from embedmill.jobs.cli import main

    sys.argv = ["embedmill", *args]
    main()
