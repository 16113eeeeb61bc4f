"""What is wrong is one line that says where and what to do, and an exit code."""

from __future__ import annotations

import builtins
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embedmill.jobs.search.exact import search
from embedmill.jobs.watch.index_report import index_text
from embedmill.pipeline.index.open import shape_of
from embedmill.pipeline.index.pgvector.statements import refuse
from embedmill.pipeline.snapshot.read import read_plan, required
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import SpecError, StorageError
from embedmill.schemas.sinks import Index
from embedmill.schemas.spec_file.load import dump_spec
from tests.jobs.commandline import Bench
from tests.pipeline.index.conftest import Follower, Stage, spec_of
from tests.pipeline.index.test_places import taken_lance

Stages = dict[str, Stage]


@pytest.fixture
def bench(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    return Bench(tmp_path, tmp_path, capsys, monkeypatch)


def command(bench: Bench, out: Path, *entries: dict, more: tuple[str, ...] = ()) -> tuple:
    path = bench.folder / "job.yaml"
    path.write_text(dump_spec(spec_of(out, out, out, entries)), encoding="utf-8")
    return bench.command("index", str(path), *more)


# --- names and types that a sink has no room for ---


def shape(stages: Stages, entry: dict, **names: str) -> Any:
    store = open_store(str(stages["base"].out))
    plan, _ = read_plan(store, required(store).manifest.plan)
    found = shape_of(Index.model_validate(entry), plan, 0)
    fields = [field.with_name(names.get(field.name, field.name)) for field in found.schema]
    return dataclasses.replace(found, schema=pa.schema(fields))


@pytest.mark.parametrize("name", ["a.b", "a`b", "", "_rowid"])
def test_lance_says_which_column_names_it_cannot_have(stages: Stages, name: str) -> None:
    from embedmill.pipeline.index.lance.lance import LanceSink

    with pytest.raises(SpecError, match="lance has no column of the name"):
        LanceSink("x", shape(stages, {"sink": "lance", "path": "x"}, year=name))


@pytest.mark.parametrize("name", ["y" * 64, "é" * 32, "", "ctid", "xmin"])
def test_postgresql_says_which_column_names_it_cannot_have(stages: Stages, name: str) -> None:
    with pytest.raises(SpecError, match="rename"):
        refuse(shape(stages, {"sink": "pgvector", "table": "x"}, year=name), "x")


def test_a_table_name_is_not_cut_in_silence(make: Callable) -> None:
    follower = make("pgvector")
    follower.entry["table"] = "t" * 64
    with pytest.raises(SpecError, match="names of 1 to 63 bytes"):
        follower.index()


def test_faiss_keeps_its_own_column(stages: Stages) -> None:
    from embedmill.pipeline.index.faiss.faiss import FaissSink

    with pytest.raises(SpecError, match="'faiss_id' is a column of the sink"):
        FaissSink("x", shape(stages, {"sink": "faiss", "path": "x"}, year="faiss_id"), None)


# --- libraries and servers that are not there ---


@pytest.mark.parametrize(
    ("name", "library"),
    [("lance", "lance"), ("faiss", "faiss"), ("pgvector", "asyncpg"), ("qdrant", "qdrant_edge")],
)
def test_a_missing_library_names_its_extra(
    make: Callable, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    follower = make(name)
    module = {"qdrant": "qdrant.edge"}.get(name, f"{name}.{name}")
    monkeypatch.delitem(sys.modules, f"embedmill.pipeline.index.{module}", raising=False)
    monkeypatch.delitem(sys.modules, library, raising=False)
    real = builtins.__import__

    def gone(wanted: str, *more: Any, **named: Any) -> Any:
        if wanted.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return real(wanted, *more, **named)

    monkeypatch.setattr(builtins, "__import__", gone)
    with pytest.raises(SpecError, match=rf"needs {library}; run pip install 'embedmill\[{name}\]'"):
        follower.index()


def test_a_server_that_is_away(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = make("pgvector")
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(StorageError, match="SINK_AWAY.*PostgreSQL"):
        follower.index()
    with pytest.raises(StorageError, match="SINK_AWAY.*Qdrant"):
        Follower(
            {"sink": "qdrant", "url": "http://127.0.0.1:1", "collection": "c"}, follower.out
        ).index()


def test_a_wrong_password_or_key_is_told_and_not_repeated(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, server = make("pgvector"), make("server")
    monkeypatch.setenv("PGPASSWORD", "swordfish")
    monkeypatch.setenv("QDRANT_API_KEY", "swordfish")
    for one, said in ((follower, "password authentication failed"), (server, "answers 401")):
        with pytest.raises(StorageError, match=said) as error:
            one.index()
        assert "swordfish" not in str(error.value)


# --- the command line ---


def test_one_sink_that_fails_does_not_keep_the_others(
    bench: Bench, make: Callable, stages: Stages
) -> None:
    bad, good = make("lance"), make("faiss")
    taken_lance(bad.entry)
    code, out, err = command(bench, stages["base"].out, bad.entry, good.entry, more=("--json",))
    assert code == 6
    assert err.count("\n") == 1
    assert "SINK_TAKEN" in err
    assert json.loads(out)["code"] == "SINK_TAKEN"
    assert good.loaded().records == stages["base"].rows


def test_a_folder_that_cannot_be_made_does_not_keep_the_others(
    bench: Bench, make: Callable, stages: Stages
) -> None:
    (bench.folder / "file").write_text("")
    good = make("lance")
    bad = make("faiss").entry | {"path": str(bench.folder / "file" / "sink")}
    code, _, err = command(bench, stages["base"].out, bad, good.entry)
    assert (code, err.count("\n")) == (7, 1)
    assert good.loaded().records == stages["base"].rows


def test_what_the_engine_of_qdrant_cannot_write_is_one_line(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, which it raises as a bare Exception."""
    from embedmill.pipeline.index.qdrant import edge

    class Full:
        @staticmethod
        def create(*_: object) -> None:
            raise Exception("Service runtime error:\n No space left on device (os error 28)")

    monkeypatch.setattr(edge.qdrant, "EdgeShard", Full)
    with pytest.raises(StorageError, match="SINK: .*No space left on device.*index again"):
        make("qdrant").index()


def test_the_report_as_json_and_for_people(bench: Bench, make: Callable, stages: Stages) -> None:
    follower = make("faiss")
    code, out, _ = command(bench, stages["base"].out, follower.entry, more=("--json",))
    (sink,) = json.loads(out)["sinks"]
    assert code == 0
    assert {"name", "records", "added", "removed", "recall", "sampled", "seconds"} <= sink.keys()
    _, out, _ = command(bench, stages["base"].out, follower.entry)
    assert "195 records (vector, cosine, flat), as they were; nothing to do" in out
    assert "recall@10 of them 1.0000" in index_text(json.loads(json.dumps(_report(sink, stages))))


def _report(sink: dict, stages: Stages) -> dict:
    return {"output": str(stages["base"].out), "snapshot": 1, "sinks": [sink]}


def test_what_the_command_line_says_of_searches(bench: Bench, make: Callable) -> None:
    follower = make("faiss")
    follower.index()
    out = str(follower.out)
    code, told, _ = bench.command("search", out, "lemon", "--sink", "faiss", "-k", "1", "--json")
    assert (code, len(json.loads(told)["hits"])) == (0, 1)
    for more, said in (
        (("--sink", "nobody"), "no sink 'nobody' was loaded; there are: "),
        (("--sink", "faiss", "--column", "other"), "has the column 'vector' alone"),
        (("--where", "x"), "'x' is no COLUMN=VALUE"),
    ):
        code, told, err = bench.command("search", out, "lemon", *more)
        assert (code, told) == (2, "")
        assert said in err
        assert err.count("\n") == 1


def test_a_spec_without_sinks_and_an_output_without_a_snapshot(
    bench: Bench, stages: Stages, make: Callable, tmp_path: Path
) -> None:
    code, _, err = command(bench, stages["base"].out)
    assert (code, "names no sink" in err) == (2, True)
    code, _, err = command(bench, tmp_path / "nothing", make("faiss").entry)
    assert (code, "NO_SNAPSHOT" in err) == (6, True)


def test_a_sink_that_lags_behind_says_so(
    make: Callable, stages: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = make("faiss")
    follower.index(stages["edited"].out)
    follower.index(stages["base"].out)
    assert search(str(stages["edited"].out), "lemon", sink="faiss")["hits"]
    assert "faiss has snapshot 1, the output 2: run index" in capsys.readouterr().err
