"""Once a run has ended, readers of OUT/data see its snapshot, whatever other runs left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from embedmill.jobs import run as room
from embedmill.jobs.run import run
from embedmill.pipeline.snapshot.read import latest
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import ConflictError, Interrupted
from embedmill.schemas.spec import Spec


@pytest.fixture
def spec(tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]) -> Spec:
    write_texts(tmp_path / "in" / "a.parquet", text=[f"apple {n}" for n in range(12)])
    return Spec.model_validate(
        {
            "input": {"path": str(tmp_path / "in"), "text": "text"},
            "model": {"name": str(tiny_bert)},
            "output": {"path": str(tmp_path / "out")},
            "run": {"device": "cpu", "runner": "inline", "unit_rows": 4},
        }
    )


def seen(tmp_path: Path) -> list[str]:
    return sorted(ds.dataset(tmp_path / "out" / "data").to_table().column("id").to_pylist())


A = sorted(f"a.parquet#{n}" for n in range(12))


def test_a_run_that_was_interrupted_and_whose_input_was_taken_back_is_cleaned_up(
    spec, tmp_path, write_texts, monkeypatch
):
    run(spec)
    more = write_texts(tmp_path / "in" / "b.parquet", text=[f"bee {n}" for n in range(12)])
    with monkeypatch.context() as patch:
        patch.setattr(room.Tally, "add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(spec)
    assert len(seen(tmp_path)) > len(A), "the interrupted run has committed a part"
    more.unlink()
    run(spec)
    assert seen(tmp_path) == A
    generation = latest(open_store(spec.output.path)).manifest.generation
    run(spec)
    assert latest(open_store(spec.output.path)).manifest.generation == generation


def test_a_run_that_lost_to_another_plan_leaves_no_part(spec, tmp_path, write_texts, monkeypatch):
    commit = room.commit_snapshot

    def late(*args):
        """Another run, over a larger input, is quicker by a hair."""
        monkeypatch.setattr(room, "commit_snapshot", commit)
        (tmp_path / "in" / "a.parquet").unlink()
        write_texts(tmp_path / "in" / "b.parquet", text=["bee"] * 3)
        run(spec)
        return commit(*args)

    monkeypatch.setattr(room, "commit_snapshot", late)
    with pytest.raises(ConflictError, match="OUTPUT_CONFLICT"):
        run(spec)
    assert seen(tmp_path) == [f"b.parquet#{n}" for n in range(3)]


def test_an_interrupted_run_resumes_where_it_was(spec, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            room.Tally, "add", lambda *_: (_ for _ in ()).throw(Interrupted("INTERRUPTED", "", ""))
        )
        with pytest.raises(Interrupted):
            run(spec)
    report = run(spec)
    assert report.units == 3
    assert report.units_resumed >= 1
    assert seen(tmp_path) == A
