"""What runs are forked from stands still: a lock that a thread of it holds would never be freed."""

from __future__ import annotations

import os
from multiprocessing import forkserver
from pathlib import Path

from tests.faults.forked import Forked


def test_the_server_that_is_forked_has_one_thread(tmp_path: Path) -> None:
    with Forked(tmp_path, "--version") as run:
        assert run.wait() == 0
    server = forkserver._forkserver._forkserver_pid
    assert len(os.listdir(f"/proc/{server}/task")) == 1
