"""Whatever happened to the input, a sink that follows it equals one that is loaded from nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from embedmill.jobs.search.exact import search
from embedmill.schemas.errors import ConflictError
from tests.pipeline.index.conftest import Follower, Stage

Stages = dict[str, Stage]


def equals_a_load_from_nothing(follower: Follower) -> bool:
    fresh = follower.elsewhere()
    fresh.index()
    return follower.content() == fresh.content()


def test_a_second_load_changes_nothing(follower: Follower, stages: Stages) -> None:
    base = stages["base"]
    first = follower.index(base.out)
    assert (first["records"], first["added"], first["removed"]) == (base.rows, base.rows, 0)
    assert (first["recall"], first["sampled"], first["beside"]) == (1.0, 100, True)
    content, loaded = follower.content(), follower.loaded()
    second = follower.index()
    assert (second["unchanged"], second["records"]) == (True, base.rows)
    assert (follower.content(), follower.loaded()) == (content, loaded)


def test_edits_deletions_and_additions(follower: Follower, stages: Stages) -> None:
    follower.index(stages["base"].out)
    before = follower.content()
    report = follower.index(stages["edited"].out)
    assert report["beside"] is False, "only what differs is touched"
    assert (report["added"], report["removed"]) == (3 + 20, 3 + 3)
    after = follower.content()
    assert len(after.keys() & before.keys()) == len(before) - 6
    assert equals_a_load_from_nothing(follower)
    (hit,) = search(str(follower.out), "yellow sour fruit", k=1, sink=follower.name)["hits"]
    (exact,) = search(str(follower.out), "yellow sour fruit", k=1)["hits"]
    assert hit == {**exact, "score": pytest.approx(exact["score"], abs=1e-6)}


@pytest.mark.slow
def test_renamed_shards_cost_nothing(follower: Follower, stages: Stages) -> None:
    follower.index(stages["base"].out)
    content = follower.content()
    report = follower.index(stages["renamed"].out)
    assert (report["added"], report["removed"], report["unchanged"]) == (0, 0, False)
    assert follower.content() == content


def test_rows_that_equal_another_in_all_share_a_record(follower: Follower, stages: Stages) -> None:
    follower.index(stages["base"].out)
    report = follower.index(stages["repeated"].out)
    records = stages["repeated"].rows - 5
    assert (report["added"], report["repeated"], report["records"]) == (0, 5, records)
    assert follower.index(stages["once"].out)["removed"] == 8
    assert equals_a_load_from_nothing(follower)


@pytest.mark.parametrize(
    "stage", [pytest.param("other rows", marks=pytest.mark.slow), "other encoding"]
)
def test_what_is_other_for_the_most_part_is_built_beside(
    follower: Follower, stages: Stages, stage: str
) -> None:
    follower.index(stages["once"].out)
    before = follower.loaded()
    report = follower.index(stages[stage].out)
    assert (report["beside"], report["records"]) == (True, stages[stage].rows)
    same = follower.loaded().fingerprint == before.fingerprint
    assert same == (stage == "other rows")
    assert equals_a_load_from_nothing(follower)


@pytest.mark.slow
def test_a_sink_of_another_encoding_is_not_searched(follower: Follower, stages: Stages) -> None:
    follower.index(stages["other encoding"].out)
    follower.index(stages["base"].out)
    with pytest.raises(ConflictError, match="OTHER_FINGERPRINT"):
        search(str(stages["other encoding"].out), "lemon", sink=follower.name)


@pytest.mark.parametrize("dropped", ["VIEW {view}", "TABLE {table} CASCADE"])
def test_a_view_or_a_table_that_somebody_dropped_comes_back(
    entry_of: Callable, stages: Stages, dropped: str
) -> None:
    follower = Follower(entry_of("pgvector"))
    follower.index(stages["base"].out)
    content = follower.content()
    with follower.opened() as sink:
        names = {"view": sink._name(sink.table), "table": sink._name(sink._facts()["physical"])}
        sink._do(f"DROP {dropped.format(**names)}")
    report = follower.index()
    assert (report["beside"], report["records"]) == (True, stages["base"].rows)
    assert follower.content() == content
    assert search(str(follower.out), "lemon", sink="pgvector")["hits"]


def test_what_somebody_removed_comes_back(follower: Follower, stages: Stages) -> None:
    follower.index(stages["base"].out)
    content = follower.content()
    with follower.opened() as sink:
        sink.begin(False, "x")
        sink.change(next(iter(sink.keys()))[:3], iter(()))
        sink.build()
        sink.publish(sink.loaded())
    assert len(follower.content()) == len(content) - 3
    report = follower.index()
    assert (report["added"], report["removed"]) == (3, 0)
    assert follower.content() == content
