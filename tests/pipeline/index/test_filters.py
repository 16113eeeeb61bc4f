"""One form of filter, the same rows in the parts and in every sink."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.run import run
from embedmill.jobs.search.exact import search
from embedmill.pipeline.index.filters import conditions, expression, meets
from embedmill.schemas.errors import SpecError
from tests.pipeline.index.conftest import TITLE, Follower, Stage, rows, spec_of

TABLE = rows(0, 100)
WORDS: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
    ("year=2000", lambda row: row["year"] == 2000),
    ("year!=2000", lambda row: row["year"] is not None and row["year"] != 2000),
    ("year >= 2010", lambda row: (row["year"] or 0) >= 2010),
    ("year< 1995", lambda row: row["year"] is not None and row["year"] < 1995),
    ("weight>20.5", lambda row: (row["weight"] or 0) > 20.5),
    ("weight=2", lambda row: row["weight"] == 2),
    ("ok=true", lambda row: row["ok"]),
    (f"{TITLE}=l'été", lambda row: row[TITLE] == "l'été"),
    (f'{TITLE}="; DROP TABLE docs;--', lambda row: row[TITLE] == '"; DROP TABLE docs;--'),
    (f"{TITLE}=", lambda row: row[TITLE] == ""),
    (f"{TITLE}!=\\x00", lambda row: row[TITLE] is not None and row[TITLE] != "\\x00"),
    (f"{TITLE}<a", lambda row: row[TITLE] is not None and row[TITLE] < "a"),
    ("when<=2020-01-03T05:00:00", lambda row: row["when"] <= datetime.datetime(2020, 1, 3, 5)),
    ("day=2020-02-01", lambda row: row["day"] == datetime.date(2020, 2, 1)),
    ("day>2020-02-10", lambda row: row["day"] > datetime.date(2020, 2, 10)),
    ("id=日本語 🚀3", lambda row: row["id"] == "日本語 🚀3"),
]
# What Qdrant has no words for is refused; so is a boolean in its engine's own door.
NOT_IN_QDRANT = (TITLE, f"{TITLE}<a")


@pytest.mark.parametrize(("words", "test"), WORDS, ids=[words for words, _ in WORDS])
def test_a_condition_keeps_the_rows_it_says(words: str, test: Callable) -> None:
    wanted = conditions([words], list(TABLE.schema))
    batch = TABLE.combine_chunks().to_batches()[0]
    expected = [test(row) for row in TABLE.to_pylist()]
    assert meets(wanted, batch).tolist() == expected
    assert TABLE.filter(expression(wanted)) == TABLE.filter(pa.array(expected))


def test_conditions_hold_together_and_none_holds_always() -> None:
    wanted = conditions(["year>=2000", "year<2010", "ok=false"], list(TABLE.schema))
    for row in TABLE.filter(expression(wanted)).to_pylist():
        assert 2000 <= row["year"] < 2010
        assert not row["ok"]
    assert expression([]) is None


def test_the_longest_name_is_meant() -> None:
    fields = [pa.field(name, pa.string()) for name in ("a", "a=b", "")]
    assert conditions(["a=b=c"], fields)[0].column == "a=b"
    assert conditions(["a=c"], fields)[0].column == "a"
    assert conditions(["=c"], fields)[0].column == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nothing", "no COLUMN=VALUE"),
        ("absent=1", "columns: 'id', 'text'"),
        ("year=x", "'x' is no value of column 'year', which is int32"),
        ("year=99999999999", "no value"),
        ("ok=yes", "no value"),
        ("ok<true", "filters < know"),
        ("day=tomorrow", "no value"),
        ("tags=a", "filters = know text, numbers"),
        ("price=1", "filters = know"),
        ("weight=\udcff", "no value"),
        ("weight>nan", "no value"),
        ("ns<3000-01-01", "no value"),
        (f"{TITLE}=\udcff", "no value"),
    ],
)
def test_what_is_no_condition_is_told(words: str, said: str) -> None:
    with pytest.raises(SpecError, match="search: ") as error:
        conditions([words], [*TABLE.schema, pa.field("ns", pa.timestamp("ns"))])
    assert said in str(error.value)


def test_every_sink_finds_what_the_parts_have(follower: Follower, stages: dict[str, Stage]) -> None:
    follower.index(stages["base"].out)
    out = str(follower.out)
    qdrant, edge = follower.entry["sink"] == "qdrant", "path" in follower.entry
    for words, _ in WORDS:
        exact = search(out, "lemon map", k=300, where=[words])["hits"]
        assert 0 < len(exact) < stages["base"].rows
        if qdrant and (words.startswith(NOT_IN_QDRANT) or words.startswith("ok=")):
            if edge or not words.startswith("ok="):
                with pytest.raises(SpecError, match="qdrant"):
                    search(out, "lemon map", where=[words], sink=follower.name)
            continue
        found = search(out, "lemon map", k=300, where=[words], sink=follower.name)["hits"]
        assert {hit["id"] for hit in found} == {hit["id"] for hit in exact}, words
        by_id = {hit["id"]: hit for hit in exact}
        for hit in found:
            wanted = by_id[hit["id"]]
            assert hit.pop("score") == pytest.approx(wanted["score"], abs=1e-5)
            assert hit.pop("weight") == pytest.approx(wanted["weight"])
            assert hit == {k: v for k, v in wanted.items() if k not in ("score", "weight")}
        scores = [by_id[hit["id"]]["score"] for hit in found]
        assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("big=9007199254740993", None),
        ("big<9007199254740991", None),
        ("big<9007199254740993", "2^53"),
        ("big>=18446744073709551610", "2^53"),
        ("big=18446744073709551610", "2^53"),
        ("ns<=2026-01-01T00:00:00", "nanoseconds"),
        ("us<=2026-01-01T00:00:00", None),
    ],
)
def test_what_qdrant_would_compare_rounded_is_refused(words: str, said: str | None) -> None:
    """It holds whole numbers as doubles where they are compared, and times in microseconds."""
    from embedmill.pipeline.index.qdrant.points import tests

    kinds = {"big": pa.uint64(), "ns": pa.timestamp("ns"), "us": pa.timestamp("us")}
    wanted = conditions([words], [pa.field(name, kind) for name, kind in kinds.items()])
    if said is None:
        assert len(list(tests(wanted))) == 1
        return
    with pytest.raises(SpecError, match="qdrant cannot compare") as error:
        list(tests(wanted))
    assert said in str(error.value)


def test_nan_meets_no_condition_anywhere(
    follower: Follower, tmp_path: Path, tiny_bert: Path
) -> None:
    """Some order it behind every number; and some have it as null."""
    numbers = [float("nan") if n % 4 == 1 else n / 3 for n in range(20)]
    texts = [f"lemon {n}" for n in range(20)]
    table = pa.table({"id": [str(n) for n in range(20)], "text": texts, "f": numbers})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    run(spec_of(tmp_path / "in", tiny_bert, tmp_path / "out", keep=["f"]))
    follower.index(tmp_path / "out")
    for words in ("f>3", "f>=0", "f!=0", "f<3", "f<=100"):
        wanted = conditions([words], [table.schema.field("f")])
        expected = set(table.filter(expression(wanted))["id"].to_pylist())
        assert not expected & {str(n) for n in range(1, 20, 4)}
        for sink in (None, follower.name):
            hits = search(str(tmp_path / "out"), "lemon", k=20, where=[words], sink=sink)["hits"]
            assert {hit["id"] for hit in hits} == expected, (words, sink)


@pytest.mark.parametrize(
    "kind",
    [pa.duration("us"), pa.time64("us"), pa.decimal256(40, 2), pa.large_list(pa.string())],
    ids=str,
)
def test_lance_holds_types_beside_which_it_cannot_filter(
    tmp_path: Path, tiny_bert: Path, kind: pa.DataType
) -> None:
    table = pa.table({"id": ["a", "b"], "text": ["lemon", "rain"], "year": [1, 2]})
    other = [["x"], ["y"]] if pa.types.is_large_list(kind) else [1, 2]
    table = table.append_column("other", pa.array(other).cast(kind))
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    keep = {"id": "id", "keep": ["year", "other"]}
    run(spec_of(tmp_path / "in", tiny_bert, tmp_path / "out", input=keep))
    follower = Follower({"sink": "lance", "path": str(tmp_path / "sink")})
    assert follower.index(tmp_path / "out")["recall"] == 1.0
    out = str(tmp_path / "out")
    assert search(out, "lemon", k=1, sink="lance")["hits"][0]["id"] == "a"
    with pytest.raises(SpecError, match="search: lance cannot filter a dataset that has a column"):
        search(out, "lemon", sink="lance", where=["year=1"])


@pytest.mark.slow
def test_a_filter_that_nothing_meets_finds_nothing(
    follower: Follower, stages: dict[str, Stage]
) -> None:
    follower.index(stages["base"].out)
    for sink in (None, follower.name):
        assert search(str(follower.out), "x", where=["year=3000"], sink=sink)["hits"] == []
