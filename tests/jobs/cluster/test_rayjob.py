"""What the scheduled pod does: start a RayJob and end as it ends. The API server is one of TLS on
loopback that answers as Kubernetes does; a real one needs a cluster."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PATH = "/apis/ray.io/v1/namespaces/night/rayjobs"


class Api(ThreadingHTTPServer):
    """Holds what was posted, and the answers still to be given to GETs."""

    posted: list[dict]
    answers: list[tuple[int, dict]]


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posted.append(body)
        self._answer(201, {"metadata": {"name": "embedmill-x7k"}}, PATH)

    def do_GET(self) -> None:
        self._answer(*self.server.answers.pop(0), f"{PATH}/embedmill-x7k")

    def _answer(self, code: int, value: dict, path: str) -> None:
        if self.headers["Authorization"] != "Bearer s3cret" or self.path != path:
            code, value = 403, {"message": f"forbidden {self.path}"}
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """The server, with a certificate that only the account's ca.crt vouches for."""
    key, certificate = tmp_path / "key", tmp_path / "ca.crt"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext "
    subprocess.run(
        [*command.split(), "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "namespace").write_text("night")
    server = Api(("127.0.0.1", 0), Handler)
    server.posted, server.answers = [], []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def run(api: Api, account: Path) -> subprocess.CompletedProcess:
    (account / "rayjob.json").write_text('{"kind": "RayJob"}')
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(api.server_port),
        "EMBEDMILL_SERVICE_ACCOUNT": str(account),
        "EMBEDMILL_POLL_SECONDS": "0.01",
    }
    command = [sys.executable, "-m", "embedmill.jobs.cluster.rayjob", str(account / "rayjob.json")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def state(deployment: str, job: str = "", message: str = "") -> tuple[int, dict]:
    status = {"jobDeploymentStatus": deployment, "jobStatus": job, "message": message}
    return 200, {"status": status}


def test_it_waits_for_a_success(api: Api, tmp_path: Path) -> None:
    running = [(200, {}), state("Initializing"), (503, {}), state("Running", "RUNNING")]
    api.answers = [*running, state("Complete", "SUCCEEDED")]
    done = run(api, tmp_path)

    assert 0 == done.returncode, done.stderr
    assert [{"kind": "RayJob"}] == api.posted
    assert [] == api.answers
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "last",
    [
        state("Failed", "FAILED", "exit code 4"),
        state("Complete", "STOPPED", "exit code 4"),
        state("ValidationFailed", "", "exit code 4"),
    ],
)
def test_what_did_not_succeed_is_to_be_tried_again(api: Api, tmp_path: Path, last: tuple) -> None:
    api.answers = [last]
    done = run(api, tmp_path)

    assert 75 == done.returncode
    assert "exit code 4" in done.stderr


def test_an_api_server_that_is_gone_is_given_up(api: Api, tmp_path: Path) -> None:
    api.answers = [(500, {})] * 30
    assert 75 == run(api, tmp_path).returncode
    assert [] == api.answers
