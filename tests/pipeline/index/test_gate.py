"""What a check does not like is not published: exit 4, or 7, and searchers keep what they had."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embedmill.jobs import index as room
from embedmill.pipeline.index.check import Checked, check
from embedmill.schemas.errors import QualityError, StorageError
from tests.pipeline.index.conftest import Follower, Stage

Stages = dict[str, Stage]


@pytest.mark.parametrize("stage", [pytest.param("other rows", marks=pytest.mark.slow), "edited"])
def test_below_min_recall_searchers_keep_what_they_had(
    follower: Follower, stages: Stages, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    follower.index(stages["base"].out)
    content, loaded = follower.content(), follower.loaded()
    said = "recall@10 is 0.9490, min_recall is 0.95"
    with monkeypatch.context() as patch, pytest.raises(QualityError, match=said) as error:
        patch.setattr(room, "check", lambda *_: Checked(100, [], 0.949))
        follower.index(stages[stage].out)
    assert error.value.exit_code == 4
    server = "url" in follower.entry and stage == "edited"  # which has no transaction
    assert follower.loaded() == loaded
    assert server or follower.content() == content
    assert follower.index(stages[stage].out)["recall"] == 1
    fresh = follower.elsewhere()
    fresh.index()
    assert follower.content() == fresh.content()


@pytest.mark.slow
def test_of_a_first_load_nothing_is_published(
    follower: Follower, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "check", lambda *_: Checked(100, [], 0.0))
    with pytest.raises(QualityError):
        follower.index(stages["base"].out)
    assert follower.loaded() is None
    follower.index(min_recall=0)
    assert follower.loaded().records == stages["base"].rows


def test_records_that_differ_are_a_storage_error(
    follower: Follower, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower.out = stages["base"].out
    with follower.opened() as sink:
        kind = type(sink)
    fetch = kind.fetch

    def other(self: Any, keys: np.ndarray) -> dict:
        found = fetch(self, keys)
        key = next(iter(found))
        return {**found, key: ({**found[key][0], "year": -1}, found[key][1] * 0 + 1)}

    monkeypatch.setattr(kind, "fetch", other)
    with pytest.raises(StorageError, match=r"1 of 100 records differ: record of id .* has another"):
        follower.index()
    assert follower.loaded() is None


@pytest.mark.slow
def test_a_wrong_count_is_a_storage_error(
    follower: Follower, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower.out = stages["base"].out
    with follower.opened() as sink:
        monkeypatch.setattr(type(sink), "count", lambda _: 7)
    with pytest.raises(StorageError, match="has 7 records, the snapshot"):
        follower.index()


class Liar:
    """A sink that finds what it is told to."""

    def __init__(self, sink: Any, find: Callable[[list[Any]], list[Any]]) -> None:
        self.sink, self.find, self.shape = sink, find, sink.shape
        self.fetch, self.stored = sink.fetch, sink.stored

    def nearest(self, query_D: np.ndarray, k: int, where: Any, columns: Any) -> list[Any]:
        return self.find(self.sink.nearest(query_D, k + 10, where, columns))


@pytest.mark.parametrize(
    ("find", "recall"),
    [
        (lambda hits: hits[:10], 1.0),
        (lambda hits: hits[:5], 0.5),
        (lambda hits: [*hits[:5], *hits[:5]], 0.5),
        (lambda hits: [], 0.0),
        (lambda hits: [dataclasses.replace(hit, key=b"?" * 16) for hit in hits[:10]], 0.0),
    ],
    ids=["all", "half", "half twice", "none", "strangers"],
)
def test_recall_is_what_was_found_of_the_best(
    entry_of: Callable, stages: Stages, find: Callable, recall: float
) -> None:
    follower = Follower(entry_of("faiss"))
    follower.index(stages["base"].out)
    with follower.opened() as sink:
        seen = _check(follower, Liar(sink, find))
    assert seen.recall == pytest.approx(recall, abs=0.02)
    assert seen.wrong == []


def _check(follower: Follower, sink: Any) -> Checked:
    from embedmill.pipeline.index.records import keys_of
    from embedmill.pipeline.snapshot.read import required, table
    from embedmill.pipeline.store.output import open_store

    store = open_store(str(follower.out))
    paths = table(store, required(store).manifest).column("path").to_pylist()
    stands = [np.ones(len(keys_of(store, path, sink.shape)), bool) for path in paths]
    return check(sink, store, paths, stands, None)


def test_the_report_is_kept_with_what_failed(
    entry_of: Callable, stages: Stages, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    follower = Follower(entry_of("faiss"))
    out = shutil.copytree(stages["base"].out, tmp_path / "out")
    shutil.rmtree(out / "_embed/index", ignore_errors=True)  # of other tests
    follower.index(out)
    monkeypatch.setattr(room, "check", lambda *_: Checked(100, [], 0.1))
    with pytest.raises(QualityError):
        follower.index(out, metric="dot")
    first, second = (json.loads(p.read_text()) for p in sorted((out / "_embed/index").iterdir()))
    assert first["sinks"][0]["recall"] == 1
    assert second["sinks"][0]["exit_code"] == 4
    assert "recall@10" in second["sinks"][0]["error"]
