"""What a run tells of itself comes through, also on a store that loses answers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from embedmill.jobs.watch.history import RUN_ID
from embedmill.pipeline.run.log import RunLog, new_run_id
from embedmill.pipeline.store.output import LocalStore, open_store
from embedmill.schemas.errors import StorageError


def test_an_event_is_told_again_where_the_answer_to_it_was_lost(tmp_path: Path, monkeypatch):
    """It was stored, and the run did not learn of it: what follows must not take its place."""
    store = open_store(str(tmp_path))
    log = RunLog(store, "atomic")
    real = LocalStore.create

    def without_answer(self, name, data):
        real(self, name, data)
        raise StorageError("STORAGE", name, "does not answer")

    monkeypatch.setattr(LocalStore, "create", without_answer)
    with pytest.raises(StorageError):
        log.event("start", units=1)
    monkeypatch.undo()
    log.event("end", exit_code=7)
    lines = [
        json.loads(line) for n in store.list("_embed/log") for line in store.read(n).splitlines()
    ]
    assert ["start", "start", "end"] == [line["event"] for line in lines]


def test_ids_sort_by_when_their_runs_began():
    """Runs of one second too: the last report of an output is that of the largest id."""
    ids = []
    for _ in range(20):
        ids.append(new_run_id())
        time.sleep(0.001)
    assert sorted(ids) == ids
    assert all(RUN_ID.fullmatch(run_id) for run_id in ids)
