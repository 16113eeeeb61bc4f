"""docs/cluster.md as a new user goes through it: the commands of its first section are typed here.

The first block has started the cluster that all tests share (conftest.py), which has ports of its
own. `ray stop` alone is not typed: it would end the other clusters of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.points import wait_for
from tests.faults.processes import finish, parts

from .conftest import ROOT, Head, section

UNITS = 12


@dataclass(frozen=True)
class Terminal:
    """A shell in the user's folder; the cluster's address is that of this one."""

    folder: Path
    head: Head

    def type(self, *lines: str) -> subprocess.Popen:
        """Commands, one after the other, until one fails."""
        script = "\n".join(lines).replace("http://127.0.0.1:8265", self.head.url)
        return subprocess.Popen(
            ["bash", "-e", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**self.head.environment, "PYTHONPATH": str(ROOT)},
            start_new_session=True,  # its Ctrl-C is its own
        )


@pytest.fixture
def terminal(head: Head, job: Callable[..., tuple[Path, Path]], tmp_path: Path) -> Terminal:
    """A new user, in a folder with my.yaml, whose output is to be `vectors`."""
    spec, output = job(10 * UNITS, encoders=1)
    user = tmp_path / "user"
    user.mkdir()
    (user / "my.yaml").write_text(spec.read_text().replace(str(output), "vectors"))
    return Terminal(user, head)


@pytest.mark.ray
def test_the_tour(terminal: Terminal, head: Head) -> None:
    """Submit, follow from another terminal, Ctrl-C, submit again, submit without waiting, stop.

    Each stop comes while the second unit is in the encoder, so neither too early nor too late.
    """
    _, submit, follow, resume, (begin, stop, last) = section()
    assert "ray stop" == last.strip()
    output = terminal.folder / "vectors"

    follower = terminal.type(*follow)
    with head.held():
        first = terminal.type(*submit)
        wait_for(head.point, stopped=True, over=first.poll)
        os.killpg(first.pid, signal.SIGINT)
        code, out, err = head.ended(first, output)
    assert (130, "") == (code, out), err
    assert "stopping the run; once more leaves it" in err and "Traceback" not in err
    assert "the same command resumes" in err
    standing = len(parts(output))
    assert 2 <= standing < UNITS
    assert [] == list(output.glob("_embed/manifest/*.json"))
    code, words, _ = finish(follower)
    assert 0 == code
    assert f"{10 * UNITS:,} rows in {UNITS} units" in words and "ended with exit code 143" in words

    code, out, err = finish(terminal.type(*resume))
    assert 0 == code, err
    assert f"{10 * UNITS:,}" in out
    (report,) = output.glob("_embed/report/*.json")
    assert standing == json.loads(report.read_text())["units_resumed"]
    assert UNITS == len(parts(output))

    shutil.rmtree(output)
    with head.held():
        code, out, err = head.ended(terminal.type(begin, stop), output)
    assert 0 == code, err
    assert "is stopped; the same submit resumes it" in out
    assert len(parts(output)) < UNITS
