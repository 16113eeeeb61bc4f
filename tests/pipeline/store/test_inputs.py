"""Input in buckets means what it means on a disk; it is read from one version, and little of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.pipeline.plan.shards import list_shards, version_now
from embedmill.pipeline.read.unit import read_unit
from embedmill.pipeline.store import objects
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import InputError, StorageError
from embedmill.schemas.plan import Plan, Slice, Unit
from embedmill.schemas.spec import Input
from tests.pipeline.store.proxy import Proxy, answer
from tests.pipeline.store.servers import Place

NAMES = (
    "a.parquet", "b.txt", "deep/c.parquet", "deep/er/d.parquet", "_hidden.parquet",
    ".dot/e.parquet", "odd name #1%20?.parquet", "ünï.parquet", "[x].parquet", "deeper/f.parquet",
)  # fmt: skip
PATTERNS = (
    "", "/", "a.parquet", "deep", "deep/", "*.parquet", "*", "**/*.parquet", "deep/**/*.parquet",
    "dee*/*.parquet", "?.parquet", "[ab].*", "[!a].*", "odd*", "[x].parquet", "deep/*/d.parquet",
    "_hidden.parquet", "nothing*", "nothing",
)  # fmt: skip


def parquet(rows: int, **more: object) -> bytes:
    """A shard of one text column."""
    sink = pa.BufferOutputStream()
    table = pa.table({"text": [f"text {n} " + "x" * 90 for n in range(rows)]})
    pq.write_table(table, sink, write_page_checksum=True, **more)
    return sink.getvalue().to_pybytes()


def names(root: str, pattern: str) -> list[str] | str:
    """The names of the shards, or the code of the error."""
    spec = Input(path=f"{root}/{pattern}" if pattern else root, text="text", id="id")
    try:
        found = list_shards(spec.model_copy(update={"on_bad_file": "quarantine"}), "/elsewhere")
    except InputError as error:
        return error.code
    bad = [error.where.removeprefix(f"{root}/") for error in found.quarantined]
    return sorted([*(shard.shard.name for shard in found.found), *bad])


def test_globs_and_folders_mean_what_they_mean_on_a_disk(place: Place, tmp_path: Path):
    for name in NAMES:
        data = b"a text" if name.endswith(".txt") else parquet(1)
        open_store(place.uri).create(name, data)
        open_store(str(tmp_path)).create(name, data)

    for pattern in PATTERNS:
        assert names(place.uri, pattern) == names(str(tmp_path), pattern), pattern


def test_an_empty_object_that_stands_for_a_folder_is_no_shard(bucket: Callable[[str], Place]):
    store = open_store(bucket("gs").uri)
    for name, data in (("in/x.parquet", b""), ("in/x.parquet/1.parquet", parquet(1))):
        store.create(name, data)
    assert names(store.uri, "in") == ["x.parquet/1.parquet"]
    assert names(store.uri, "in/**/*") == ["x.parquet/1.parquet"]
    store.create("in/truncated.parquet", b"")
    assert names(store.uri, "in") == ["in/truncated.parquet", "x.parquet/1.parquet"]


def test_the_version_of_a_shard_is_the_same_however_it_is_asked_for(place: Place):
    """And another one as soon as its bytes are."""
    store = open_store(place.uri)
    store.create("in/1.parquet", parquet(10))
    spec = Input(path=f"{place.uri}/in", text="text", id="id")
    shard = list_shards(spec, "/elsewhere").found[0].shard
    assert (shard.size, shard.version) == version_now(shard.uri)
    with objects.open_object(shard.uri) as file:
        file.read()  # compares the ETag of its answers
    store.delete("in/1.parquet")
    store.create("in/1.parquet", parquet(10, compression="none"))
    assert version_now(shard.uri)[1] != shard.version


def test_an_input_inside_the_output_is_refused(bucket: Callable[[str], Place]):
    uri = bucket("s3").uri
    open_store(uri).create("out/in/1.parquet", parquet(1))
    with pytest.raises(InputError, match="INPUT_INSIDE_OUTPUT"):
        list_shards(Input(path=f"{uri}/out/in", text="text"), f"{uri}/out")


@pytest.fixture
def proxy(
    bucket: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> Iterator[Callable[[], Proxy]]:
    """Puts a proxy before the S3 server from now on."""
    with Proxy(bucket("s3").port) as proxy:

        def begin() -> Proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
            return proxy

        yield begin


@pytest.mark.parametrize("policy", ["fail", "quarantine"])
def test_a_store_that_is_away_is_no_bad_file(
    bucket: Callable[[str], Place], proxy: Callable[[], Proxy], policy: str
):
    """Or a storm would quarantine the corpus."""
    uri = bucket("s3").uri
    for n in range(3):
        open_store(uri).create(f"in/{n}.parquet", parquet(n + 1))
    spec = Input(path=f"{uri}/in", text="text", id="id", on_bad_file=policy)
    cut = proxy()
    cut.script = lambda request, forward: (
        answer("503 Slow Down") if "1.parquet" in request.target else forward(request)
    )
    with pytest.raises(StorageError, match="STORE_AWAY"):
        list_shards(spec, "/elsewhere")


def unit_of(uri: str, *slices: tuple[int, int]) -> Unit:
    """Slices of the one shard under a folder."""
    spec = Input(path=uri, text="text", id="id")
    shard = list_shards(spec, "/elsewhere").found[0].shard
    return Unit("0" * 32, tuple(Slice(shard, start, rows) for start, rows in slices))


def plan_of(uri: str) -> Plan:
    """As much of a plan as reading looks at."""
    from embedmill.schemas.columns import encode_schema

    plan = object.__new__(Plan)
    spec = Input(path=uri, text="text").model_dump()
    object.__setattr__(plan, "input", spec)
    carried = pa.schema([pa.field("id", pa.string(), False)])
    object.__setattr__(plan, "carried_schema", encode_schema(carried))
    object.__setattr__(plan, "id_column", "id")
    return plan


def test_units_of_one_row_group_fetch_its_column_chunk_once(
    bucket: Callable[[str], Place], proxy: Callable[[], Proxy], monkeypatch: pytest.MonkeyPatch
):
    """A row group of pandas has a million rows, and a unit two thousand."""
    uri = f"{bucket('s3').uri}/in"
    data = parquet(20_000, compression="none", use_dictionary=False)
    open_store(uri).create("big.parquet", data)
    monkeypatch.setattr(objects, "_recent", objects._Recent())
    log = proxy().requests
    for start in (0, 5_000, 10_000):
        unit = unit_of(uri, (start, 5_000))
        batch = read_unit(plan_of(uri), unit)
        assert batch.a[0].startswith(f"text {start} ") and len(batch.a) == 5_000
    spans = [request.header("range") for request in log if request.header("range")]
    sizes = [int(b) - int(a) for a, b in (span[6:].split("-") for span in spans)]
    assert len([size for size in sizes if size > 1_000_000]) == 1
    assert sum(sizes) < 1.3 * len(data)


def test_only_the_wanted_columns_are_fetched(
    bucket: Callable[[str], Place], proxy: Callable[[], Proxy], monkeypatch: pytest.MonkeyPatch
):
    uri = f"{bucket('s3').uri}/in"
    table = pa.table({"text": ["short"] * 5_000, "vector": [bytes(range(250)) * 4] * 5_000})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    open_store(uri).create("wide.parquet", sink.getvalue())
    monkeypatch.setattr(objects, "_recent", objects._Recent())
    log = proxy().requests
    assert read_unit(plan_of(uri), unit_of(uri, (0, 5_000))).a == ["short"] * 5_000
    spans = [request.header("range")[6:].split("-") for request in log if request.header("range")]
    assert sum(int(b) - int(a) for a, b in spans) < 300_000


def test_what_is_kept_for_the_next_unit_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(objects, "KEPT_BYTES", 100)
    recent = objects._Recent()
    for n in range(5):
        recent.put(("uri", n), bytes(40))
    recent.put(("uri", "huge"), bytes(101))

    assert [n for n in (*range(5), "huge") if recent.get(("uri", n)) is not None] == [3, 4]
