"""An output whose every name and value is nasty, real sinks to load it into, and their contents."""

from __future__ import annotations

import datetime
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.index import index
from embedmill.jobs.run import run
from embedmill.pipeline.index.open import open_sink, shape_of
from embedmill.pipeline.index.sink import Loaded
from embedmill.pipeline.snapshot.read import read_plan, required
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.sinks import Index
from embedmill.schemas.spec import Spec
from tests.pipeline.index.postgres_server import postgres_server
from tests.pipeline.index.qdrant_server import KEY, qdrant_server

TITLE = "we\"ird'\n; DROP TABLE x;-- é"
NASTY = ['"; DROP TABLE docs;--', "l'été", "a\nb\tc", "日本語 🚀", "\\x00", "$1", "%s", "", " "]
KEEP = [TITLE, "year", "ok", "weight", "when", "day", "tags", "price"]
SINKS = ("lance", "faiss", "pgvector", "qdrant", "server")  # a server of Qdrant, and its engine


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, str]]:
    """A real PostgreSQL with pgvector on loopback: what the environment must say to reach it."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # who runs it cannot enter pytest's folders
    try:
        with postgres_server(folder) as environment:
            yield environment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rows(first: int, count: int, text: str = "") -> pa.Table:
    """Rows of a shard: ids, texts and kept columns, with nulls and everything nasty among them."""
    words = "apple bread city cloud dog door earth fire grape house lemon map rain river".split()
    numbers = range(first, first + count)
    start = datetime.datetime(2020, 1, 1)

    def words_of(n: int) -> str:
        return f"{text} {' '.join(words[(n * 7 + i) % len(words)] for i in range(1 + n % 6))}"

    return pa.table(
        {
            "id": [f"{NASTY[n % len(NASTY)]}{n}" for n in numbers],
            "text": [None if n % 41 == 5 else words_of(n) for n in numbers],
            TITLE: [None if n % 11 == 3 else NASTY[n % len(NASTY)] for n in numbers],
            "year": pa.array([None if n % 13 == 2 else 1990 + n % 40 for n in numbers], pa.int32()),
            "ok": [n % 2 == 0 for n in numbers],
            "weight": [None if n % 7 == 1 else n / 3 for n in numbers],
            "when": [start + datetime.timedelta(hours=n, microseconds=n) for n in numbers],
            "day": [(start + datetime.timedelta(days=n % 50)).date() for n in numbers],
            "tags": [["a", 'b"', "é"][: n % 4] for n in numbers],
            "price": pa.array([Decimal(n) / 4 for n in numbers], pa.decimal128(10, 2)),
        }
    )


def edited(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    """The table with another value in one place."""
    values = table[column].to_pylist()
    values[row] = value
    at = table.schema.get_field_index(column)
    return table.set_column(at, table.schema.field(at), [pa.array(values, table[column].type)])


def history() -> Iterator[tuple[str, dict[str, pa.Table | None], dict[str, Any]]]:
    """(stage, shards written and deleted, changes of the spec), one after the other."""
    a, b = rows(0, 100), rows(100, 100, "moon")
    changed = edited(edited(a, "text", 7, "yellow sour fruit"), "year", 20, 2222)
    changed = edited(changed, TITLE, 21, "another; title")
    changed = pa.concat_tables([changed.slice(0, 50), changed.slice(53)])
    twice = pa.concat_tables([a, a.slice(0, 3), b.slice(0, 2)])
    yield "base", {"a": a, "b": b}, {}
    yield "edited", {"a": changed, "c": rows(300, 20, "sun")}, {}
    yield "renamed", {"a": None, "z": a, "c": None}, {}  # what base has, but for a name
    yield "repeated", {"z": twice}, {}
    yield "once", {"b": b.slice(10)}, {}  # two of the rows that are gone are in the other shard
    yield "other rows", {"z": rows(500, 100, "stone"), "b": rows(600, 100, "glass")}, {}
    yield "other encoding", {}, {"max_tokens": 16}


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> dict[str, Stage]:
    """The output of a corpus after each stage of its history, encoded once."""
    folder, found = tmp_path_factory.mktemp("history"), {}
    source = folder / "in"
    source.mkdir()
    shards: dict[str, pa.Table] = {}
    for name, written, model in history():
        for shard, table in written.items():
            path = source / f"{shard}.parquet"
            if table is None:
                path.unlink()
                del shards[shard]
            else:
                pq.write_table(table, path)
                shards[shard] = table
        run(spec_of(source, tiny_bert, folder / "out", model=model, output={"replace": True}))
        shutil.copytree(folder / "out", folder / name)
        texts = (text for table in shards.values() for text in table["text"].to_pylist())
        found[name] = Stage(folder / name, sum(1 for text in texts if text))
    return found


def spec_of(
    source: Path, model_folder: Path, out: Path, index: Sequence[dict[str, Any]] = (),
    keep: Sequence[str] = KEEP, **more: dict[str, Any],
) -> Spec:  # fmt: skip
    """A spec of small units, encoded here on the CPU."""
    return Spec.model_validate(
        {
            "input": {
                "path": str(source), "text": "text", "id": "id", "keep": list(keep),
                **more.get("input", {}),
            },
            "model": {"name": str(model_folder), **more.get("model", {})},
            "output": {"path": str(out), **more.get("output", {})},
            "run": {"device": "cpu", "unit_rows": 40, "workers": 1, "runner": "inline"},
            "index": list(index),
        }
    )  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """An output at some time, and how many rows with a text its input had."""

    out: Path
    rows: int


@dataclass
class Follower:
    """A sink that follows an output."""

    entry: dict[str, Any]
    out: Path = Path()

    @property
    def name(self) -> str:
        """What search calls it."""
        return Index.model_validate(self.entry).called

    def index(self, out: Path | None = None, **changes: Any) -> dict[str, Any]:
        """Loads the sink; what is said of it."""
        self.out = out or self.out
        spec = spec_of(self.out, self.out, self.out, [{**self.entry, **changes}])
        return index(spec)["sinks"][0]

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The sink, for reading."""
        store = open_store(str(self.out))
        plan, _ = read_plan(store, required(store).manifest.plan)
        entry = Index.model_validate(self.entry)
        sink = open_sink(entry, shape_of(entry, plan, 0), plan)
        try:
            yield sink
        finally:
            sink.close()

    def loaded(self) -> Loaded | None:
        """What searchers see, as the sink says it."""
        with self.opened() as sink:
            return sink.loaded()

    def content(self) -> dict[bytes, tuple[Any, ...]]:
        """All that the sink holds: key -> what is carried, and the vector's bytes."""
        with self.opened() as sink:
            listed = sink.keys
            keys = [key for some in listed() for key in some]
            found = sink.fetch(np.array(keys, np.uint8).reshape(-1, 16))
        assert len(found) == len(keys), "a key is there twice"
        return {key: (row, vector.tobytes()) for key, (row, vector) in found.items()}

    def elsewhere(self) -> Follower:
        """A sink of the same kind in another place, which has never seen anything."""
        place = next(key for key in ("path", "table", "collection") if key in self.entry)
        return Follower({**self.entry, place: f"{self.entry[place]} 2"}, self.out)


@pytest.fixture(scope="session")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """Qdrant's server as tests have it: its URL, and what it holds."""
    with qdrant_server(tmp_path_factory.mktemp("qdrant")) as found:
        yield found


@pytest.fixture
def entry_of(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict[str, Any]]:
    """entry_of("lance"): a sink of this test's own in a nasty place, as the spec says it."""

    def make(name: str) -> dict[str, Any]:
        nasty = f"do\"cs'; DROP TABLE x;-- é {uuid.uuid4().hex[:8]}"
        if name == "pgvector":
            for key, value in request.getfixturevalue("postgres").items():
                monkeypatch.setenv(key, value)
            return {"sink": "pgvector", "table": nasty}
        if name == "server":
            monkeypatch.setenv("QDRANT_API_KEY", KEY)
            url, _ = request.getfixturevalue("qdrant")
            return {"sink": "qdrant", "url": url, "collection": nasty}
        return {"sink": name, "path": str(tmp_path / f"a 'sink' é.{name}")}

    return make


@pytest.fixture(params=SINKS)
def follower(request: pytest.FixtureRequest, entry_of: Callable[[str], dict[str, Any]]) -> Follower:
    """Each sink in turn, with nothing in it."""
    return Follower(entry_of(request.param))


@pytest.fixture
def make(entry_of: Callable, stages: dict[str, Stage]) -> Callable[[str], Follower]:
    """make("lance"): a sink for the base stage."""

    def follower(name: str) -> Follower:
        return Follower(entry_of(name), stages["base"].out)

    return follower
