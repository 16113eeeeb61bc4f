"""One form of filter, the same rows in the parts and in every sink."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from jobs.search import search
from pipeline.index.filters import conditions, expression, meets
from schemas.errors import SpecError
from tests.index.conftest import TITLE, Follower, Stage, rows

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
        (f"{TITLE}=\udcff", "no value"),
    ],
)
def test_what_is_no_condition_is_told(words: str, said: str) -> None:
    with pytest.raises(SpecError, match="search: ") as error:
        conditions([words], list(TABLE.schema))
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


@pytest.mark.slow
def test_a_filter_that_nothing_meets_finds_nothing(
    follower: Follower, stages: dict[str, Stage]
) -> None:
    follower.index(stages["base"].out)
    for sink in (None, follower.name):
        assert search(str(follower.out), "x", where=["year=3000"], sink=sink)["hits"] == []
