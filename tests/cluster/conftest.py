"""A Ray cluster as a user starts one: `ray start --head`, with a token, on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.pipeline.store.conftest import bucket, servers  # noqa: F401
from tests.tiny import save_model

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
CANARY = "canary-7d1f0c3a"  # a secret that must turn up nowhere


@dataclass(frozen=True)
class Head:
    """A started cluster, and the environment of one who may use it."""

    url: str
    address: str
    metrics: str
    folder: Path  # of the session: logs, packages, all that Ray writes
    environment: dict[str, str]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """An `embedmill` command from a folder that is not the repository."""
        return subprocess.Popen(
            [sys.executable, "-m", "embedmill", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder.parent,
            env={**self.environment, "PYTHONPATH": str(ROOT), **environment},
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a command."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=280)
        return process.returncode, out, err


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """Two CPUs, a token, everything on loopback."""
    base = Path(tempfile.mkdtemp(prefix="em-"))  # Ray's sockets need a short path
    (base / "home" / ".ray").mkdir(parents=True)
    (base / "home" / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    gcs, dashboard, metrics, agent, client = (free_port() for _ in range(5))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "HOME": str(base / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    settings = {
        "port": gcs, "dashboard-port": dashboard, "dashboard-host": "127.0.0.1",
        "node-ip-address": "127.0.0.1", "num-cpus": 2, "metrics-export-port": metrics,
        "dashboard-agent-listen-port": agent, "ray-client-server-port": client,
        "temp-dir": base / "ray", "object-store-memory": 300_000_000,
    }  # fmt: skip
    command = ["ray", "start", "--head", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
        assert 0 == done.returncode, done.stdout + done.stderr
        yield Head(
            f"http://127.0.0.1:{dashboard}",
            f"127.0.0.1:{gcs}",
            f"http://127.0.0.1:{metrics}/metrics",
            base / "ray",
            {**environment, "AWS_SECRET_ACCESS_KEY": CANARY},
        )
    finally:
        end_processes_of(base)
        shutil.rmtree(base, ignore_errors=True)


def end_processes_of(folder: Path) -> None:
    """Ends Ray's processes of one session; `ray stop` would end those of the whole machine."""
    ours = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join(process.cmdline()):
                ours += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    for process in ours:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(ours, timeout=10)


@pytest.fixture
def job(
    tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]
) -> Callable[..., tuple[Path, Path]]:
    """Writes a spec of so many rows in units of ten: (spec, output).

    rejects: a null in each unit. heavy: a unit keeps an encoder for a tenth of a second or more, so
    that encoders, and no other stage, are what a run waits for.
    """

    def make(
        rows: int, *, rejects: bool = False, heavy: bool = False, **run: object
    ) -> tuple[Path, Path]:
        words = "lemon river stone honey bread cloud yellow sour fruit".split()
        least, model = (100, tmp_path / "heavy") if heavy else (1, tiny_bert)
        if heavy:
            model.mkdir()
            save_model(model, **HEAVY)
        texts: list[str | None] = [
            " ".join(words[(n + i) % 9] for i in range(least + n % 13)) for n in range(rows)
        ]
        if rejects:
            texts[::10] = [None] * len(texts[::10])
        shard = write_texts(
            tmp_path / "in" / "0.parquet", 10, text=texts, id=[f"d{n}" for n in range(rows)]
        )
        spec = {
            "input": {"path": str(shard.parent), "text": "text", "id": "id"},
            "model": {"name": str(model), "precision": "exact"},
            "output": {
                "path": str(tmp_path / "out"),
                "columns": [{"name": "vector", "pooling": "mean"}],
            },
            "run": {"unit_rows": 10, **run},
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(spec))
        return path, tmp_path / "out"

    return make
