"""Runs on a cluster of three nodes: one is lost, the pool grows, resources are absent, two drivers.

What they leave is compared byte by byte with an undisturbed inline run.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from embedmill.pipeline.store.output import open_store
from tests.faults.processes import parts
from tests.patience import LONG
from tests.pipeline.store.servers import Place

from .conftest import ROOT, end_processes_of
from .nodes import is_encoder

Make = Callable[..., tuple[Path, Path]]
Undisturbed = Callable[..., dict[str, bytes]]
UNITS = 160  # that many are still under way while a pool grows or a node has its notice

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@dataclass(frozen=True)
class Nodes:
    """The cluster, and the environment of its user."""

    address: str
    process: subprocess.Popen
    environment: dict[str, str]

    def lose(self, how: str) -> str:
        """Ends a node that holds an encoder, by `kill` or `drain`; its number."""
        self.process.stdin.write(f"{how}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def start(self, spec: Path, *sets: str) -> subprocess.Popen:
        """`embedmill run SPEC --json` on the cluster."""
        more = [word for item in (f"run.address={self.address}", *sets) for word in ("--set", item)]
        return subprocess.Popen(
            [sys.executable, "-m", "embedmill", "run", str(spec), "--json", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def encoders(self) -> list[psutil.Process]:
        """Processes that hold an encoder now."""
        return list(filter(is_encoder, psutil.Process(self.process.pid).children(recursive=True)))


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    out, err = process.communicate(timeout=LONG)
    return process.returncode, out, err


@pytest.fixture
def in_s3(bucket: Callable[[str], Place]) -> str:
    """A folder in a bucket of a local S3 server."""
    return bucket("s3").uri


@pytest.fixture(params=[(1, 1, 1)], ids=lambda cpus: f"{len(cpus)} nodes")
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    if "in_s3" in request.fixturenames:
        request.getfixturevalue("in_s3")  # its credentials are the nodes'
    base = Path(tempfile.mkdtemp(prefix="em-"))
    (base / ".ray").mkdir()
    (base / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "HOME": str(base),
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_TMPDIR": str(base),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    process = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "cluster" / "nodes.py", *map(str, request.param)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        address = process.stdout.readline().strip()
        assert address, "no cluster"
        yield Nodes(address, process, environment)
    finally:
        process.kill()
        process.wait()
        end_processes_of(base)
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def undisturbed(tmp_path: Path) -> Undisturbed:
    """The parts of an inline run of a spec, perhaps with other settings."""

    def run(spec: Path, *sets: str) -> dict[str, bytes]:
        command = [sys.executable, "-m", "embedmill", "run", str(spec)]
        for item in (*sets, "run.runner=inline", f"output.path={tmp_path / 'inline'}"):
            command += ["--set", item]
        subprocess.run(command, check=True, capture_output=True)
        return parts(tmp_path / "inline")

    return run


def moved(spec: Path, uri: str) -> tuple[str, ...]:
    """Puts the one shard of a spec into a bucket; the settings of a run from it to it."""
    (shard,) = (spec.parent / "in").iterdir()
    assert open_store(f"{uri}/in").create(shard.name, shard.read_bytes())
    return f"input.path={uri}/in/{shard.name}", f"output.path={uri}/out"


def parts_in(uri: str) -> dict[str, bytes]:
    """Name and bytes of every part in a bucket."""
    store = open_store(f"{uri}/out")
    return {name.rpartition("/")[2]: store.read(name) for name in store.list("data")}


@pytest.mark.parametrize(
    ("how", "encoders"),
    [("kill", "auto"), ("kill", {"min": 1, "max": 3}), ("drain", "auto")],
    ids=["by force", "while the pool grows", "with notice"],
)
def test_a_lost_node_loses_nothing(
    nodes: Nodes, in_s3: str, job: Make, undisturbed: Undisturbed, how: str, encoders: object
) -> None:
    """From a bucket to it. A node with an encoder goes in the middle; the parts are inline's."""
    spec, _ = job(10 * UNITS, heavy=True, encoders=encoders)
    sets = moved(spec, in_s3)
    process = nodes.start(spec, *sets)
    while process.poll() is None and len(parts_in(in_s3)) < 5:
        time.sleep(0.05)
    lost = "none"  # the head, which must stay, may have the first encoder
    while process.poll() is None and lost == "none":
        lost = nodes.lose(how)
    assert lost.isdigit(), finish(process)[2]
    before = len(parts_in(in_s3))
    code, out, err = finish(process)

    assert 0 == code, err
    assert before < UNITS, "it was lost in the middle"
    report = json.loads(out)
    assert (10 * UNITS, UNITS, 0) == tuple(
        report[key] for key in ("rows_in", "parts", "rows_rejected")
    )
    assert undisturbed(spec, *sets) == parts_in(in_s3)


def test_the_pool_grows_from_one_to_three(
    nodes: Nodes, job: Make, undisturbed: Undisturbed
) -> None:
    spec, output = job(10 * UNITS, heavy=True, encoders={"min": 1, "max": 3})
    process = nodes.start(spec)
    seen: set[int] = set()
    most = first = 0
    while process.poll() is None:
        now = {encoder.pid for encoder in nodes.encoders()}
        first = first or len(now)
        seen, most = seen | now, max(most, len(now))
        time.sleep(0.1)
    code, _, err = finish(process)

    assert 0 == code, err
    assert (1, 3) == (first, most)
    assert undisturbed(spec) == parts(output)


def test_what_the_cluster_cannot_do_is_said_at_once(nodes: Nodes, job: Make) -> None:
    """No GPU; an encoder that is refused wherever it starts; software that differs."""
    spec, output = job(20)
    code, out, err = finish(nodes.start(spec, "run.device=cuda"))
    assert 75 == code, err
    assert "no node has room for an encoder on cuda" in err and "Traceback" not in err

    code, _, err = finish(start_patched(OTHER, nodes, spec))
    assert 75 == code, err
    assert "SOFTWARE_DIFFERS" in err and "for 0.0.1 of the driver" in err
    assert 1 == err.count("embedmill: "), err

    code, _, err = finish(nodes.start(spec))
    assert 0 == code, err
    (canary,) = output.glob("_embed/canary/*.arrow")
    table = pa.ipc.open_file(canary).read_all()
    other = [pa.array([[-x for x in row] for row in c.to_pylist()]) for c in table.columns]
    canary.unlink()
    with pa.ipc.new_file(str(canary), table.schema) as writer:
        writer.write_table(pa.table(other, schema=table.schema))
    for path in (*output.glob("data/*/*"), *output.glob("_embed/manifest/*")):
        path.unlink()
    code, _, err = finish(nodes.start(spec))
    assert 8 == code, err
    assert "CANARY" in err and "this encoder is not the reference" in err, "the real reason"
    assert 1 == err.count("embedmill: "), err


# On a node of one CPU Ray keeps one idle worker, and two drivers would wait for processes only.
@pytest.mark.parametrize("nodes", [(3, 3)], ids=["2 nodes"], indirect=True)
def test_two_drivers_share_one_plan(nodes: Nodes, job: Make, undisturbed: Undisturbed) -> None:
    """Both end well in one snapshot; few units are encoded twice."""
    spec, output = job(10 * UNITS, heavy=True, encoders=1)
    both = [nodes.start(spec), nodes.start(spec)]
    reports = []
    for process in both:
        code, out, err = finish(process)
        assert 0 == code, err
        reports.append(json.loads(out))

    assert reports[0]["manifest"] == reports[1]["manifest"]
    encoded = sum(r["rows_encoded"] + r["rows_deduplicated"] for r in reports)
    assert 10 * UNITS <= encoded < 1.5 * 10 * UNITS
    assert all(
        10 * UNITS == r["rows_encoded"] + r["rows_deduplicated"] + r["rows_resumed"]
        for r in reports
    )
    assert 1 == len(list(output.glob("_embed/manifest/*.json")))
    assert undisturbed(spec) == parts(output)


OTHER = """
from embedmill.jobs.cli import main
from embedmill.pipeline.run import on_ray as cluster

here = cluster.versions
cluster.versions = lambda ray: {**here(ray), "torch": "0.0.1"}
main()
"""
STALL = """
from embedmill.jobs.cli import main
from embedmill.pipeline.run import session

session.patience = lambda *_: 60.0
main()
"""


def start_patched(script: str, nodes: Nodes, spec: Path) -> subprocess.Popen:
    """`run` on the cluster, by a driver with something else in its place."""
    return subprocess.Popen(
        [sys.executable, "-c", script, "run", str(spec), "--set", f"run.address={nodes.address}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=nodes.environment,
    )


def test_a_run_that_stands_still_ends(nodes: Nodes, job: Make) -> None:
    """Its encoders hang: stopped, as a device in trouble leaves them. The guard ends the run."""
    spec, output = job(10 * UNITS)
    process = start_patched(STALL, nodes, spec)
    while process.poll() is None and len(parts(output)) < 5:
        time.sleep(0.02)
    held = nodes.encoders()
    assert held and len(parts(output)) < UNITS
    for encoder in held:
        encoder.send_signal(signal.SIGSTOP)
    _, err = process.communicate(timeout=LONG)

    assert 75 == process.returncode, err
    assert "NO_PROGRESS" in err and "Traceback" not in err
    for encoder in held:
        with contextlib.suppress(psutil.NoSuchProcess):
            encoder.send_signal(signal.SIGKILL)
