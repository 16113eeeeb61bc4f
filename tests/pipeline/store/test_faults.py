"""What a network does to requests, done to them by a proxy before a real store."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import embedmill
from embedmill.jobs.cli import cli
from embedmill.pipeline.store import client
from embedmill.pipeline.store.objects import open_object
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import EmbedmillError, StorageError
from tests.pipeline.store.proxy import Forward, Proxy, Request, Script, answer, plainly
from tests.pipeline.store.servers import Place
from tests.pipeline.store.test_end_to_end import command, spec_of, upload


@pytest.fixture
def proxy(
    bucket: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> Iterator[Proxy]:
    """A proxy before the S3 server, which the environment names in its place."""
    with Proxy(bucket("s3").port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield proxy


@pytest.fixture
def root(bucket: Callable[[str], Place], proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test's folder; what is asked for goes through the proxy."""
    uri = bucket("s3").uri
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    return uri


def once(method: str, act: Script) -> Script:
    """Does it to the first request of a method; all others pass."""
    left = [act]
    lock = threading.Lock()

    def script(request: Request, forward: Forward) -> bytes | None:
        with lock:
            now = left.pop() if left and request.method == method else None
        return (now or (lambda request, forward: forward(request)))(request, forward)

    return script


def swallow(request: Request, forward: Forward) -> bytes | None:
    """The store has done it; the client never hears of it."""
    forward(request)
    return None


def swallow_and_fail(request: Request, forward: Forward) -> bytes | None:
    """The store has done it; the client hears that it could not, and asks again by itself."""
    forward(request)
    return answer("503 Service Unavailable")


def reset(request: Request, forward: Forward) -> bytes | None:
    """The request never arrives."""
    return None


def conflict(request: Request, forward: Forward) -> bytes | None:
    """What AWS says while somebody else writes: try again."""
    return answer("409 Conflict", b"<Error><Code>ConditionalRequestConflict</Code></Error>")


def half(request: Request, forward: Forward) -> bytes | None:
    """Half of the answer, then nothing."""
    data = forward(request)
    return data[: len(data) - (len(data) - data.index(b"\r\n\r\n")) // 2]


@pytest.mark.parametrize("fault", [swallow, swallow_and_fail, reset, conflict])
def test_a_creation_that_a_fault_hides_is_ones_own(root: str, proxy: Proxy, fault: Script):
    store = open_store(root)
    proxy.script = once("PUT", fault)

    assert store.create("part", b"mine")
    assert store.read("part") == b"mine"
    assert not store.create("part", b"late")


@pytest.mark.parametrize("fault", [swallow, swallow_and_fail])
def test_a_refusal_whose_answer_is_lost_stays_a_refusal(root: str, proxy: Proxy, fault: Script):
    store = open_store(root)
    store.create("part", b"theirs")
    proxy.script = once("PUT", fault)

    assert not store.create("part", b"mine!!")
    assert store.read("part") == b"theirs"


def test_an_answer_that_breaks_off_is_asked_for_again(root: str, proxy: Proxy):
    store = open_store(root)
    data = bytes(range(256)) * 4000
    store.create("big", data)
    for verb in (store.read, lambda name: store.open(name).read(), store.sha256):
        whole = verb("big")
        proxy.script = once("GET", half)
        assert verb("big") == whole


STORMS = {"503": lambda request, forward: answer("503 Slow Down"), "resets": reset, "halves": half}
WORDS = {"503": "it answers 503", "resets": "broke", "halves": "", "silence": "in time"}


@pytest.fixture
def silence() -> Iterator[Script]:
    """No answer, until the test is over."""
    over = threading.Event()
    yield lambda request, forward: over.wait()
    over.set()


@pytest.mark.parametrize("storm", [*STORMS, "silence"])
def test_a_storm_ends_in_one_line_and_the_same_call_works_after_it(
    root: str, proxy: Proxy, storm: str, silence: Script, monkeypatch: pytest.MonkeyPatch
):
    store = open_store(root)
    store.create("there", bytes(1000))
    calls: list[Callable[[], object]] = [lambda: store.read("there")]
    if storm != "halves":
        calls += [lambda: store.create("new", b"x"), lambda: list(store.list("")),
                  lambda: store.size("there"), lambda: store.delete("gone")]  # fmt: skip
    with monkeypatch.context() as hasty:
        hasty.setattr(client, "RETRY_SECONDS", 0.3 + len(storm) / 1000)  # a client of its own
        if storm == "silence":
            hasty.setitem(client.PATIENCE, "read", {"timeout": "5s", "read_timeout": "200ms"})
            hasty.setitem(client.PATIENCE, "write", {"timeout": "200ms"})
        proxy.script = STORMS.get(storm, silence)
        for call in calls:
            with pytest.raises(StorageError, match="STORE_AWAY.*same command resumes") as caught:
                call()
            assert WORDS[storm] in str(caught.value)
            assert "\n" not in str(caught.value) and "127.0.0.1" not in str(caught.value)
        proxy.script = plainly
        if storm != "silence":  # that client would be too hasty on a busy machine
            assert store.read("there") == bytes(1000)
    assert store.read("there") == bytes(1000)


@pytest.mark.parametrize("verb", ["size", "create"])
def test_a_signal_is_heard_while_a_store_is_silent(
    root: str, proxy: Proxy, verb: str, silence: Script
):
    """It comes when the request is there, to which there is no answer."""

    def signalled(request: Request, forward: Forward) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        silence(request, forward)

    proxy.script = once("HEAD" if verb == "size" else "PUT", signalled)
    store = open_store(root)
    with pytest.raises(KeyboardInterrupt):
        store.size("a") if verb == "size" else store.create("a", b"1")


ANSWERS = {
    "ACCESS_DENIED": ("400 Bad Request", b"<Error><Code>ExpiredToken</Code></Error>"),
    "NO_BUCKET": ("404 Not Found", b"<Error><Code>NoSuchBucket</Code></Error>"),
    "WRONG_REGION": ("301 Moved", b"<Error><Code>PermanentRedirect</Code></Error>"),
    "NO_CONDITION": ("501 Not Implemented", b"<Error><Code>NotImplemented</Code></Error>"),
    "STORAGE": ("400 Bad Request", b"<Error><Code>EntityTooLarge</Code></Error>"),
}


@pytest.mark.parametrize("code", ANSWERS)
def test_what_the_store_says_has_a_code_and_an_advice(root: str, proxy: Proxy, code: str):
    status, body = ANSWERS[code]
    proxy.script = lambda request, forward: answer(status, body)

    with pytest.raises(StorageError, match=f"^{code}: .*; ") as caught:
        open_store(root).create("x", b"1")
    assert caught.value.exit_code == 7


def test_no_bucket_of_that_name_is_said(bucket: Callable[[str], Place]):
    bucket("az")
    for call in ("create", "list"):
        store = open_store("az://nothing/out")
        with pytest.raises(StorageError, match="NO_BUCKET"):
            store.create("x", b"1") if call == "create" else list(store.list(""))


def test_a_storm_in_the_middle_of_a_run_is_exit_7_and_the_same_command_resumes(
    root: str, proxy: Proxy, tiny_bert: Path, tmp_path: Path
):
    upload(root)
    spec = spec_of(root, tiny_bert, tmp_path)
    committed: list[str] = []

    def storm_after_two_parts(request: Request, forward: Forward) -> bytes | None:
        if len(committed) >= 2:
            return answer("503 Slow Down")
        if request.method == "PUT" and re.search("/out/data/", request.target):
            committed.append(request.target)
        return forward(request)

    proxy.script = storm_after_two_parts
    done = CliRunner().invoke(cli, ["run", spec])
    assert isinstance(done.exception, EmbedmillError)
    assert (done.exception.exit_code, done.exception.code) == (7, "STORE_AWAY")

    proxy.script = lambda request, forward: forward(request)
    report = command("run", spec)
    assert report["units_resumed"] == 2
    assert 0 < report["rows_resumed"] < 60
    assert len(embedmill.dataset(f"{root}/out").to_table()) == 60


def test_a_shard_that_is_replaced_between_two_requests_is_an_error(root: str, proxy: Proxy):
    table = pa.table({"text": [f"{n}" * 50 for n in range(9_000)]})
    store = open_store(root)
    for rows in (9_000, 8_999):
        sink = pa.BufferOutputStream()
        pq.write_table(table.slice(0, rows), sink, compression="none", use_dictionary=False)
        store.create(f"{rows}.parquet", sink.getvalue())
    old, new = (store.read(f"{rows}.parquet") for rows in (9_000, 8_999))
    with open_object(store.where("9000.parquet")) as file:
        reader = pq.ParquetFile(file)
        store.delete("9000.parquet")
        store.create("9000.parquet", new + bytes(len(old) - len(new)))
        with pytest.raises(EmbedmillError, match="INPUT_CHANGED"):
            reader.read()


def test_a_store_that_is_away_is_no_damage_to_verify(
    root: str, proxy: Proxy, tiny_bert: Path, tmp_path: Path
):
    upload(root)
    command("run", spec_of(root, tiny_bert, tmp_path))
    for target in ("/out/data/", "/in/"):
        proxy.script = lambda request, forward, target=target: (
            answer("503 Slow Down") if target in request.target else forward(request)
        )
        done = CliRunner().invoke(cli, ["verify", f"{root}/out", "--sample", "2"])
        assert isinstance(done.exception, StorageError) and done.exception.code == "STORE_AWAY"


def test_a_creation_is_one_request_with_a_condition_and_no_checksum_header(root: str, proxy: Proxy):
    """Whatever its size; some compatibles refuse those headers, and some the bulk deletion."""
    store = open_store(root)
    store.create("big", bytes(20 << 20))
    store.delete("big")

    assert [request.method for request in proxy.requests] == ["PUT", "DELETE"]
    put = proxy.requests[0]
    assert (put.header("if-none-match"), len(put.body)) == ("*", 20 << 20)
    names = {name.lower() for name, _ in put.headers}
    assert not {n for n in names if "checksum" in n or n in ("content-md5", "transfer-encoding")}


def test_a_slow_line_may_send_for_longer_than_it_may_be_silent(
    root: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(client.PATIENCE, "read", {"timeout": "5s", "read_timeout": "100ms"})

    def slowly(request: Request, forward: Forward) -> bytes | None:
        time.sleep(0.4)
        return forward(request)

    proxy.script = once("PUT", slowly)
    assert open_store(root).create("part", b"x")
    assert [request.method for request in proxy.requests] == ["PUT"]
