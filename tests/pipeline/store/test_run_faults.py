"""What becomes of a run in a bucket: resets in bodies, credentials that expire, other input."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import embedmill
from embedmill.jobs.cli import cli
from embedmill.pipeline.store import client
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import EmbedmillError
from tests.pipeline.store.proxy import Forward, Proxy, Request, Torn, answer
from tests.pipeline.store.servers import KEY, SECRET
from tests.pipeline.store.test_end_to_end import command, spec_of, upload
from tests.pipeline.store.test_faults import once, proxy, root  # noqa: F401 - fixtures


def failed(spec: str) -> EmbedmillError:
    """The error of a run: one of ours, one line."""
    done = CliRunner().invoke(cli, ["run", spec])
    assert isinstance(done.exception, EmbedmillError), done.exception
    assert "\n" not in str(done.exception)
    return done.exception


def parts(place: str) -> dict[str, bytes]:
    store = open_store(place)
    return {name: store.read(name) for name in store.list("data")}


def torn(request: Request, forward: Forward) -> Torn:
    """Half of the answer's body, then a reset."""
    data = forward(request)
    return Torn(data[: len(data) - (len(data) - data.index(b"\r\n\r\n")) // 2])


def test_a_reset_in_the_middle_of_a_body_is_mended_by_asking_again(root: str, proxy: Proxy):  # noqa: F811
    store = open_store(root)
    data = bytes(range(256)) * 40_000
    proxy.torn_bodies = 2
    assert store.create("big", data)
    for verb in (store.read, lambda name: store.open(name).read(), store.sha256):
        whole = verb("big")
        proxy.script = once("GET", torn)
        assert verb("big") == whole
    assert store.read("big") == data


def test_every_tenth_body_of_a_run_is_torn_and_its_parts_are_the_same(
    root: str, proxy: Proxy, tiny_bert: Path, tmp_path: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(client, "RETRY_SECONDS", 20)
    upload(root)
    spec = spec_of(root, tiny_bert, tmp_path)
    command("run", spec, "--set", f"output.path={root}/calm")
    seen: list[str] = []

    def tear(request: Request, forward: Forward) -> bytes | Torn | None:
        seen.append(request.target)
        if len(seen) % 10 == 0:
            proxy.torn_bodies = 1
        if len(seen) % 10 == 5 and request.method == "GET":
            return torn(request, forward)
        return forward(request)

    proxy.script = tear
    assert command("run", spec)["rows_in"] == 61
    assert len(seen) > 30
    assert parts(f"{root}/out") == parts(f"{root}/calm")


@pytest.mark.parametrize(
    ("status", "said"),
    [("400 Bad Request", "ExpiredToken"), ("403 Forbidden", "RequestTimeTooSkewed")],
)
def test_what_expires_or_jumps_in_the_middle_of_a_run_is_exit_7_and_it_resumes(
    root: str, proxy: Proxy, tiny_bert: Path, tmp_path: Path, status: str, said: str  # noqa: F811
):  # fmt: skip
    """Credentials that were good for an hour; a clock that somebody set."""
    upload(root)
    spec = spec_of(root, tiny_bert, tmp_path)
    committed: list[str] = []

    def expire(request: Request, forward: Forward) -> bytes | Torn | None:
        if len(committed) >= 2:
            return answer(status, f"<Error><Code>{said}</Code></Error>".encode())
        if request.method == "PUT" and re.search("/out/data/", request.target):
            committed.append(request.target)
        return forward(request)

    proxy.script = expire
    error = failed(spec)
    assert (error.exit_code, error.code) == (7, "ACCESS_DENIED")
    assert ("clock" in str(error)) == (said == "RequestTimeTooSkewed")
    assert KEY not in str(error) and SECRET not in str(error)
    proxy.script = lambda request, forward: forward(request)
    report = command("run", spec)
    assert (report["units_resumed"], report["rows_in"]) == (2, 61)
    assert len(embedmill.dataset(f"{root}/out").to_table()) == 60


def test_a_shard_that_is_replaced_while_the_run_goes_on_is_input_changed(
    root: str, proxy: Proxy, tiny_bert: Path, tmp_path: Path  # noqa: F811
):  # fmt: skip
    upload(root)
    spec = spec_of(root, tiny_bert, tmp_path)
    sink = pa.BufferOutputStream()
    ids = [f"new-{n}" for n in range(30)]
    pq.write_table(pa.table({"id": ids, "text": [f"a new boat {n}" for n in ids]}), sink)
    store, replaced = open_store(root), []

    def replace(request: Request, forward: Forward) -> bytes | Torn | None:
        if request.method == "PUT" and "/attempts/" in request.target and not replaced:
            replaced.append(request.target)  # the first unit is about to be read
            for name in ("in/0/part 0.parquet", "in/1/part 1.parquet"):
                store.delete(name)
                store.create(name, sink.getvalue())
        return forward(request)

    proxy.script = replace
    error = failed(spec)
    assert (error.exit_code, error.code) == (3, "INPUT_CHANGED")
    report = command("run", spec)
    assert (report["rows_in"], report["rows_rejected"]) == (60, 0)
    found = embedmill.dataset(f"{root}/out").to_table()
    assert sorted(found["id"].to_pylist()) == sorted(ids * 2)
