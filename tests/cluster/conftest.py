"""The Ray cluster that docs/cluster.md starts: `ray start --head` with a token, on this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.faults.points import environment
from tests.patience import LONG, SOON, wait_until
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


BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section() -> list[list[str]]:
    """The commands of "Try it on one machine" in docs/cluster.md, a list for each block."""
    page = (ROOT / "docs" / "cluster.md").read_text("utf-8")
    text = page.partition("## Try it on one machine")[2].partition("\n## ")[0]
    return [re.findall(r"^\$ ([^#\n]+)", block, re.MULTILINE) for block in BLOCK.findall(text)]


@dataclass(frozen=True)
class Head:
    """A started cluster, and the environment of one who may use it."""

    url: str
    address: str
    metrics: str
    folder: Path  # of the session: logs, packages, all that Ray writes
    environment: dict[str, str]
    point: Path  # of its encoders: see points.py

    @contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile an encoder stands still when the second unit comes to it."""
        self.hold()
        try:
            yield
        finally:
            (self.point / "off").touch()
            self.let_go()

    def hold(self) -> None:
        """From now on; what happened before is forgotten."""
        for path in self.point.iterdir():
            path.unlink()

    def let_go(self) -> None:
        """The encoder goes on, if there is one that stands still."""
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((self.point / "fired").read_text().split()[0]), signal.SIGCONT)

    def ended(self, process: subprocess.Popen, output: Path) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of what stops a run, in which an encoder is held until then.

        Once the run knows that it shall stop, it goes on with the unit in flight.
        """

        def over() -> bool:
            if list(output.glob("_embed/log/*/stop")):
                self.let_go()
            return process.poll() is not None

        wait_until(over, "the run is stopped", LONG)
        out, err = process.communicate()
        return process.returncode, out, err

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
        out, err = process.communicate(timeout=LONG)
        return process.returncode, out, err


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """The cluster that the page starts, with two CPUs, in a folder of its own.

    Its servers take ports that are free. That of Ray's client is given; nobody asks for it here.
    """
    base = Path(tempfile.mkdtemp(prefix="em-"))  # Ray's sockets need a short path
    (base / "home").mkdir()
    user = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "HOME": str(base / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    point = base / "point"
    armed = {**user, **environment("CP6", signal.SIGSTOP, point, hit=2)}
    (point / "off").touch()
    more = (
        f"--num-cpus=2 --port=0 --dashboard-port=0 --metrics-export-port=0 "
        f"--dashboard-agent-listen-port=0 --ray-client-server-port={free_port()} "
        f"--temp-dir={shlex.quote(str(base / 'ray'))} --object-store-memory=300000000"
    )
    lines = [f"{line} {more}" if line.startswith("ray start") else line for line in section()[0]]
    command = ["bash", "-e", "-c", "\n".join(lines)]
    try:
        done = subprocess.run(
            command, env=armed, cwd=base, capture_output=True, text=True, timeout=LONG
        )
        assert 0 == done.returncode, done.stdout + done.stderr
        url = re.search(r"RAY_API_SERVER_ADDRESS='(\S+?)'", done.stdout)
        assert url, done.stdout
        gcs, metrics = (port_of(base / "ray", name) for name in ("gcs_server", "metrics_export"))
        yield Head(
            url[1],
            f"127.0.0.1:{gcs}",
            f"http://127.0.0.1:{metrics}/metrics",
            base / "ray",
            {**user, "RAY_AUTH_MODE": "token", "AWS_SECRET_ACCESS_KEY": CANARY},
            point,
        )
    finally:
        end_processes_of(base)
        shutil.rmtree(base, ignore_errors=True)


def port_of(folder: Path, server: str) -> int:
    """Where one of Ray's servers listens: it writes so into a file of the session."""
    (path,) = (folder / "session_latest").glob(f"{server}_port_*")
    return int(path.read_text())


def end_processes_of(folder: Path) -> None:
    """Ends Ray's processes of one session; `ray stop` would end those of the whole machine."""
    ours = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get("HOME", "")  # of Ray's client server, nothing else tells
            if f"{folder}/" in f"{' '.join(process.cmdline())} {home}/":
                ours += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    for process in ours:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(ours, timeout=SOON)


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
