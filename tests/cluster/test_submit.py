"""submit, stop and status --follow as a new user has them: docs/cluster.md, on this machine."""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.faults.points import wait_for
from tests.faults.processes import parts
from tests.patience import LONG

from .conftest import CANARY, Head

Make = Callable[..., tuple[Path, Path]]


@pytest.mark.ray
def test_a_submitted_run_is_the_same_run(head: Head, job: Make, tmp_path: Path) -> None:
    """Its report, its bytes and its exit code; its id is the job's; no secret travels."""
    spec, output = job(60)
    code, out, err = head.run("submit", str(spec), "--address", head.url, "--json")
    assert 0 == code, err
    report = json.loads(out)
    assert (60, 6, 0) == (report["rows_in"], report["parts"], report["exit_code"])
    assert f"run {report['run_id']} is submitted" in err
    assert "60 of 60 rows" in err, "the job's words are followed"
    assert 6 == len(parts(output))

    inline = ("--set", "run.runner=inline", "--set", f"output.path={tmp_path / 'inline'}")
    assert 0 == head.run("run", str(spec), *inline)[0]
    assert parts(tmp_path / "inline") == parts(output)

    token = (Path(head.environment["HOME"]) / ".ray" / "auth_token").read_text()
    request = urllib.request.Request(
        f"{head.url}/api/jobs/{report['run_id']}", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request) as answer:
        facts = answer.read().decode()
    assert CANARY not in facts and token not in facts
    said = [path for path in head.folder.rglob("*") if path.is_file()]
    assert len(said) > 20
    for secret in (CANARY, token):
        assert [] == [path for path in said if secret.encode() in path.read_bytes()]


@pytest.mark.ray
def test_what_a_job_says_is_what_submit_ends_with(head: Head, job: Make) -> None:
    """A job that fails there: its one line, its exit code."""
    spec, _ = job(10)
    wrong = ("--set", "input.text=body", "--json")
    code, out, err = head.run("submit", str(spec), "--address", head.url, *wrong)

    assert 3 == code, err
    assert ("COLUMN_MISSING", 3) == tuple(json.loads(out)[key] for key in ("code", "exit_code"))
    assert 1 == err.count("COLUMN_MISSING") and "Traceback" not in err


@pytest.mark.ray
def test_ctrl_c_before_there_is_an_encoder(head: Head, job: Make) -> None:
    """Nothing is encoded that is not committed, and submit again does it all."""
    spec, output = job(60)
    first = head.start("submit", str(spec), "--address", head.url)
    assert "is submitted" in first.stderr.readline()
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=LONG)
    assert (130, "") == (first.returncode, out), err
    assert "Traceback" not in err
    assert [] == list(output.glob("_embed/manifest/*.json"))

    code, out, err = head.run("submit", str(spec), "--address", head.url, "--json")
    assert 0 == code, err
    assert 6 == len(parts(output)) == json.loads(out)["parts"]


@pytest.mark.ray
@pytest.mark.slow
def test_no_wait_and_stop(head: Head, job: Make) -> None:
    spec, output = job(120, encoders=1)
    with head.held():
        code, out, err = head.run("submit", str(spec), "--address", head.url, "--no-wait")
        assert 0 == code, err
        run_id = out.strip()
        wait_for(head.point, stopped=True)
        assert run_id in head.run("status", str(output))[1]
        stop = head.start("stop", run_id, "--address", head.url)
        code, out, err = head.ended(stop, output)

    assert (0, True) == (code, "is stopped" in out), err
    assert 2 <= len(parts(output)) < 12
    last = sorted((output / "_embed" / "log" / run_id).glob("*.jsonl"))[-1]
    assert '"exit_code": 143' in last.read_text()
    code, _, err = head.run("stop", "no-such-run", "--address", head.url)
    assert (2, 1) == (code, err.count("\n")), err


# --- what refuses, and says why ---


class Pretender(BaseHTTPRequestHandler):
    """A dashboard that tells its version, to all or to those with a token."""

    open, version = False, "2.60.0"

    def do_GET(self) -> None:
        if not self.open and "Authorization" not in self.headers:
            self.send_response(401)
            self.end_headers()
            return
        data = json.dumps({"version": "4", "ray_version": self.version}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pretender(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its address."""
    kind = type("Kind", (Pretender,), request.param)
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, str]:
    """A home with a token of no cluster."""
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home" / ".ray" / "auth_token").write_text("0" * 64)
    return {"HOME": str(tmp_path / "home")}


def refused(spec: Path, url: str, home: dict[str, str]) -> str:
    """The one line that submit ends with, exit code 75."""
    lonely = Head(url, "", "", spec.parent / "x", {"PATH": "/usr/bin"}, spec.parent)
    code, out, err = lonely.run("submit", str(spec), "--address", url, **home)
    assert (75, "", 1) == (code, out, err.count("\n")), err
    return err


@pytest.mark.parametrize(
    ("pretender", "words"),
    [
        ({"open": True}, "OPEN_CLUSTER"),
        ({"version": "2.58.1"}, "runs Ray 2.58.1, this machine has 2.60."),
    ],
    indirect=["pretender"],
)
def test_a_cluster_that_will_not_do(
    pretender: str, words: str, job: Make, stranger: dict[str, str]
) -> None:
    assert words in refused(job(10)[0], pretender, stranger)


def test_a_cluster_that_is_not_there(job: Make, stranger: dict[str, str]) -> None:
    assert "NO_CLUSTER: http://127.0.0.1:9" in refused(job(10)[0], "http://127.0.0.1:9", stranger)


@pytest.mark.ray
@pytest.mark.parametrize("token", ["0" * 64, None])
def test_a_token_that_the_cluster_does_not_know(
    head: Head, job: Make, tmp_path: Path, token: str | None
) -> None:
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    if token:
        (tmp_path / "home" / ".ray" / "auth_token").write_text(token)
    line = refused(job(10)[0], head.url, {"HOME": str(tmp_path / "home")})
    assert "NO_TOKEN" in line and "RAY_AUTH_TOKEN" in line
