"""Starts a run as a user would, and finds its processes to kill them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import psutil
import yaml

from tests.patience import LONG, SOON


def write_spec(
    path: Path, shards: Path, model: str, output: Path | str, **run_settings: object
) -> Path:
    """A spec file over a folder of shards with columns id, text."""
    spec = {
        "input": {"path": str(shards), "text": "text", "id": "id"},
        "model": {"name": model, "precision": "exact"},
        "output": {"path": str(output)},
        "run": run_settings,
    }
    path.write_text(yaml.safe_dump(spec), "utf-8")
    return path


def start(spec: Path, *args: str, **environment: str) -> subprocess.Popen:
    """`embedmill run SPEC --json` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "embedmill", "run", str(spec), "--json", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment},
    )


def finish(process: subprocess.Popen, timeout: float = LONG) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a started run."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def parts(output: Path) -> dict[str, bytes]:
    """Name and bytes of every part."""
    return {path.name: path.read_bytes() for path in sorted(output.glob("data/*/*.parquet"))}


def kill_driver(process: subprocess.Popen) -> None:
    """kill -9 of the run itself; returns when all of its processes are gone."""
    orphans = _descendants(process.pid)
    process.kill()
    process.wait(SOON)
    psutil.wait_procs(orphans, timeout=SOON)


def moment(seed: int, units: int) -> int:
    """A random number of parts to wait for: a seeded moment of a run of so many units."""
    return random.Random(seed).randrange(0, max(1, units - 3))


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
