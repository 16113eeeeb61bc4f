"""docs/cluster.md as a new user goes through it: the commands of its first section are typed here.

The machine may have other clusters, so this one gets ports and a folder of its own; nothing else is
changed. `ray stop` alone is not typed: it would end those others.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.processes import parts

from .conftest import ROOT, end_processes_of, free_port

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section() -> list[list[str]]:
    """The commands of "Try it on one machine", a list for each block."""
    page = (ROOT / "docs" / "cluster.md").read_text("utf-8")
    text = page.partition("## Try it on one machine")[2].partition("\n## ")[0]
    return [re.findall(r"^\$ ([^#\n]+)", block, re.MULTILINE) for block in BLOCK.findall(text)]


UNITS = 400  # so many that none of the signals below comes after the last


@dataclass(frozen=True)
class Terminal:
    """A shell in the user's folder; ports of the page are those of this cluster."""

    folder: Path
    environment: dict[str, str]
    ports: dict[str, str]
    more: str  # of `ray start`

    def type(self, *lines: str) -> subprocess.Popen:
        """Commands, one after the other, until one fails."""
        script = "\n".join(self._here(line.strip()) for line in lines)
        return subprocess.Popen(
            ["bash", "-e", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,  # its Ctrl-C is its own
        )

    def _here(self, line: str) -> str:
        for theirs, ours in self.ports.items():
            line = line.replace(theirs, ours)
        return f"{line} {self.more}" if line.startswith("ray start") else line


def ended(process: subprocess.Popen, seconds: float = 280) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a terminal."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


@pytest.fixture
def terminal(job: Callable[..., tuple[Path, Path]]) -> Iterator[Terminal]:
    """A new user, in a folder with my.yaml, whose output is to be `vectors`."""
    base = Path(tempfile.mkdtemp(prefix="em-"))  # Ray's sockets need a short path
    spec, output = job(10 * UNITS)
    text = spec.read_text().replace(str(output), "vectors")
    (base / "my.yaml").write_text(text)
    gcs, dashboard, metrics, agent, client = (free_port() for _ in range(5))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "HOME": str(base),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    more = (
        f"--port={gcs} --dashboard-port={dashboard} --metrics-export-port={metrics} "
        f"--dashboard-agent-listen-port={agent} --ray-client-server-port={client} --num-cpus=2 "
        f"--temp-dir={shlex.quote(str(base / 'ray'))} --object-store-memory=300000000"
    )
    try:
        yield Terminal(base, environment, {":8265": f":{dashboard}"}, more)
    finally:
        end_processes_of(base)
        shutil.rmtree(base, ignore_errors=True)


@pytest.mark.ray
def test_the_tour(terminal: Terminal) -> None:
    """Start a cluster, submit, follow from another terminal, Ctrl-C, submit again, stop."""
    start, submit, follow, resume, (begin, stop, last) = section()
    assert "ray stop" == last.strip()
    code, out, err = ended(terminal.type(*start))
    assert 0 == code, out + err
    terminal.environment["RAY_AUTH_MODE"] = "token"  # what the page has exported
    output = terminal.folder / "vectors"

    follower = terminal.type(*follow)
    first = terminal.type(*submit)
    while first.poll() is None and len(parts(output)) < 3:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGINT)
    code, out, err = ended(first)
    assert (130, "") == (code, out), err
    assert "stopping the run; once more leaves it" in err and "Traceback" not in err
    assert "the same command resumes" in err
    standing = len(parts(output))
    assert 3 <= standing < UNITS
    assert [] == list(output.glob("_embed/manifest/*.json"))
    code, words, _ = ended(follower, 60)
    assert 0 == code
    assert f"{10 * UNITS:,} rows in {UNITS} units" in words and "ended with exit code 143" in words

    code, out, err = ended(terminal.type(*resume))
    assert 0 == code, err
    assert f"{10 * UNITS:,}" in out
    (report,) = output.glob("_embed/report/*.json")
    assert standing == json.loads(report.read_text())["units_resumed"]
    assert UNITS == len(parts(output))

    shutil.rmtree(output)
    code, out, err = ended(terminal.type(begin, stop))
    assert 0 == code, err
    assert "is stopped; the same submit resumes it" in out
    assert len(parts(output)) < UNITS
