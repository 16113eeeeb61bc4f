"""One job against every kind of store: the tables are equal, and every command works there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

import embedmill
from embedmill.jobs.cli import cli
from embedmill.pipeline.store.output import open_store
from tests.pipeline.store.servers import KEY, SECRET, Place

TEXTS = [f"a lemon in garden {n % 13} by the sea" for n in range(60)]
FIXED = ("run_id", "seconds", "output")  # of a report: its own


def shards() -> Iterator[tuple[str, bytes]]:
    """Two shards in folders, and a hidden file that is no shard."""
    for n, texts in enumerate((TEXTS[:40], [*TEXTS[40:], None])):
        ids = [f"{n}-{row}" for row in range(len(texts))]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": ids, "text": texts}), sink, row_group_size=25)
        yield f"in/{n}/part {n}.parquet", sink.getvalue().to_pybytes()
    yield "in/_log.parquet", b"no Parquet"


def upload(root: str) -> None:
    """Writes the shards under a root of any kind."""
    for name, data in shards():
        assert open_store(root).create(name, data)


def spec_of(root: str, model: Path | str, folder: Path, **run: Any) -> str:
    """A spec file of a job from and to folders of the root."""
    spec = {
        "input": {"path": f"{root}/in/**/*.parquet", "text": "text", "id": "id"},
        "model": {"name": str(model), "precision": "exact"},
        "output": {"path": f"{root}/out"},
        "run": {"device": "cpu", "runner": "inline", "unit_rows": 16, **run},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(spec))
    return str(path)


def command(*arguments: str) -> Any:
    """What a command gives as JSON; it must have ended well."""
    done = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def expected(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The job's table from file to file."""
    folder = tmp_path_factory.mktemp("file")
    upload(f"file://{folder}")
    command("run", spec_of(f"file://{folder}", tiny_bert, folder))
    return embedmill.dataset(f"{folder}/out").to_table()


def test_from_bucket_to_bucket_is_as_from_file_to_file(
    place: Place, tiny_bert: Path, tmp_path: Path, expected: pa.Table
):
    upload(place.uri)
    spec, out = spec_of(place.uri, tiny_bert, tmp_path), f"{place.uri}/out"

    assert command("plan", spec)["rows_new"] == 61
    report = command("run", spec)
    assert (report["rows_in"], report["rows_rejected"], report["commits"]) == (61, 1, "atomic")
    assert report["output"] == out
    assert embedmill.dataset(out).to_table().equals(expected)

    again = command("run", spec)
    assert (again["rows_encoded"], again["tokens"], again["rows_reused"]) == (0, 0, 60)
    assert command("report", out)["run_id"] == again["run_id"]
    status = command("status", out, "--files")
    assert status["snapshot"]["rows"] == 60
    assert all(uri.startswith(f"{out}/data/") for uri in status["files"])
    found = command("verify", out, "--sample", "5")
    assert (found["ok"], found["sample"]["n"], found["problems"]) == (True, 5, [])
    assert command("search", out, TEXTS[7], "-k", "1")["hits"][0]["score"] > 0.999
    assert command("report", out, "--html", str(tmp_path / "page.html"))["output"] == out
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert command("gc", out)["removed"] == []


def test_a_changed_shard_alone_is_read_and_encoded_again(
    bucket: Callable[[str], Place], tiny_bert: Path, tmp_path: Path
):
    place = bucket("s3")
    upload(place.uri)
    spec = spec_of(place.uri, tiny_bert, tmp_path)
    command("run", spec)
    store = open_store(place.uri)
    store.delete("in/1/part 1.parquet")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["new"], "text": ["a new boat"]}), sink)
    store.create("in/1/part 1.parquet", sink.getvalue())

    report = command("run", spec)
    assert (report["rows_in"], report["rows_reused"], report["rows_encoded"]) == (41, 40, 1)
    parts = list(store.list("out/data"))
    assert sorted(command("status", f"{place.uri}/out", "--files")["files"]) == [
        store.where(name) for name in parts
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_ray_makes_the_same_table_in_a_bucket(
    bucket: Callable[[str], Place], tiny_bert: Path, tmp_path: Path, expected: pa.Table
):
    place = bucket("s3")
    upload(place.uri)
    report = command("run", spec_of(place.uri, tiny_bert, tmp_path, runner="ray", encoders=1))

    assert report["rows_encoded"] + report["rows_deduplicated"] == 60
    assert embedmill.dataset(f"{place.uri}/out").to_table().equals(expected)


def test_nothing_that_is_written_or_said_holds_a_secret(
    bucket: Callable[[str], Place], tiny_bert: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, impatient: None,
):  # fmt: skip
    place = bucket("s3")
    upload(place.uri)
    spec = spec_of(place.uri, tiny_bert, tmp_path)
    command("run", spec)
    store = open_store(place.uri)
    for name in store.list("out"):
        assert SECRET.encode() not in store.read(name)
        assert KEY.encode() not in store.read(name)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    done = CliRunner().invoke(cli, ["run", spec])
    assert "ACCESS_DENIED" in (said := str(done.exception))
    assert "hush" not in said and KEY not in said


def test_a_store_that_lies_is_refused_and_a_single_writer_may_use_it(
    bucket: Callable[[str], Place], tiny_bert: Path, tmp_path: Path, expected: pa.Table
):
    place = bucket("lying")
    upload(place.uri)
    spec = spec_of(place.uri, tiny_bert, tmp_path)
    done = CliRunner().invoke(cli, ["run", spec])
    assert (done.exception.code, done.exception.exit_code) == ("STORE_LIES", 7)
    assert list(open_store(place.uri).list("out")) == []

    report = command("run", spec, "--set", "output.single_writer=true")
    assert report["commits"] == "none"
    assert embedmill.dataset(f"{place.uri}/out").to_table().equals(expected)
    said = CliRunner().invoke(cli, ["report", f"{place.uri}/out"]).stdout
    assert "only one run at a time is safe" in said
