"""Every kind of vector column in every sink that can hold it, and a clear line from all others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.run import run
from embedmill.jobs.search.exact import search
from embedmill.schemas.errors import SpecError
from tests.pipeline.index.conftest import SINKS, TITLE, Follower, rows, spec_of

COLUMNS = [
    {"name": "whole", "normalize": False},
    {"name": "half", "dtype": "float16", "normalize": True},
    {"name": "codes", "dtype": "int8", "normalize": True},
    {"name": "bits", "dtype": "binary"},
    {"name": "all", "pooling": "tokens"},
]
CANNOT = {  # sink -> columns that it refuses
    "lance": {"codes": "no int8"}, "pgvector": {"codes": "no int8"}, "faiss": {},
    "qdrant": {"codes": "no int8", "bits": "no binary"},
    "server": {"codes": "no int8", "bits": "no binary"},
}  # fmt: skip


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """An output with a column of every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "in").mkdir()
    pq.write_table(rows(0, 120), folder / "in" / "a.parquet")
    run(spec_of(folder / "in", tiny_bert, folder / "out", output={"columns": COLUMNS}))
    return folder / "out"


@pytest.fixture(scope="session")
def windows(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """An output whose long rows have several vectors."""
    folder = tmp_path_factory.mktemp("windows")
    (folder / "in").mkdir()
    table = rows(0, 30)
    long = [
        text and text * (40 if n % 3 == 0 else 1)
        for n, text in enumerate(table["text"].to_pylist())
    ]
    table = table.set_column(1, "text", [pa.array(long)])
    pq.write_table(table, folder / "in" / "a.parquet")
    model = {"long_text": "window", "max_tokens": 32, "stride": 4}
    run(spec_of(folder / "in", tiny_bert, folder / "out", model=model))
    return folder / "out"


@pytest.mark.parametrize("column", ["whole", "half", "codes", "bits"])
def test_columns(follower: Follower, kinds: Path, column: str) -> None:
    name = "server" if "url" in follower.entry else follower.entry["sink"]
    if said := CANNOT[name].get(column):
        with pytest.raises(SpecError, match=said):
            follower.index(kinds, column=column)
        return
    for type_ in ("flat", "hnsw", "ivf"):
        if (type_, name) in (("ivf", "qdrant"), ("ivf", "server")):
            continue
        if (column, name) == ("codes", "faiss") and type_ != "flat":
            with pytest.raises(SpecError, match="flat alone"):
                follower.index(kinds, column=column, type=type_)
            continue
        report = follower.index(kinds, column=column, type=type_, min_recall=0.5)
        assert (report["sampled"], report["type"]) == (100, type_)
        least = 0.98 if type_ != "ivf" else 0.7
        assert report["recall"] >= (1.0 if (type_, column) == ("flat", "whole") else least)
        follower.entry["column"] = column
        for k, where in ((100, ()), (1, ("year=2002",))):
            hits = search(str(kinds), "lemon map", k=k, sink=follower.name, where=where)["hits"]
            assert len(hits) == k
    found = search(str(kinds), "lemon map", k=5, sink=follower.name)["hits"]
    exact = search(str(kinds), "lemon map", k=5, column=column)["hits"]
    assert found[0]["score"] == pytest.approx(exact[0]["score"], abs=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_metrics(follower: Follower, kinds: Path, metric: str) -> None:
    assert follower.index(kinds, metric=metric, column="whole")["recall"] == 1.0
    hits = search(str(kinds), "lemon map", k=5, sink=follower.name)["hits"]
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    if metric == "l2":
        assert scores[0] <= 0
    else:
        assert scores[0] > 1.5, "the column is not normalized, and neither is the query"


def test_token_vectors_are_refused(follower: Follower, kinds: Path) -> None:
    with pytest.raises(SpecError, match="'all' holds tokens; columns with one vector a row: whole"):
        follower.index(kinds, column="all")
    with pytest.raises(SpecError, match="'absent' is no vector column"):
        follower.index(kinds, column="absent")


def test_windows_are_records_of_their_own(follower: Follower, windows: Path) -> None:
    report = follower.index(windows)
    assert report["records"] > 40
    assert (report["repeated"], report["recall"]) == (0, 1.0)
    exact = search(str(windows), "lemon map", k=20)["hits"]
    found = search(str(windows), "lemon map", k=20, sink=follower.name)["hits"]
    named = [
        {(h["id"], h["window"], h["char_start"], h["char_end"]) for h in x} for x in (exact, found)
    ]
    assert named[0] == named[1]
    assert any(hit["window"] > 0 for hit in found)
    later = search(str(windows), "lemon", k=50, sink=follower.name, where=["window>0"])["hits"]
    assert later
    assert all(hit["window"] > 0 and TITLE in hit for hit in later)


def test_every_sink_is_here() -> None:
    assert set(CANNOT) == set(SINKS)
