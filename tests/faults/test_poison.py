"""A row that kills its process is found and rejected; all others of its unit are encoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.jobs.run import run
from embedmill.pipeline import load
from embedmill.pipeline.plan.plan import Planned, freeze, make_plan
from embedmill.pipeline.run import attempts
from embedmill.pipeline.run import isolated as apart
from embedmill.pipeline.run.inline import run_inline
from embedmill.pipeline.snapshot.gc import collect
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import InputError, ModelError, TryAgain
from embedmill.schemas.manifest import attempt_name
from embedmill.schemas.plan import Shard, Slice, Unit
from embedmill.schemas.spec import Spec
from tests.faults.conftest import token
from tests.faults.processes import parts

TEXTS = ["lemon", "yellow sour fruit", "river stone", "deep sea water"]


@pytest.fixture
def job(tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]) -> Callable[..., Spec]:
    """A spec over texts, one shard for each list of them, in one unit."""

    def make(*shards: list[str], **settings: Any) -> Spec:
        for name, texts in zip("abc", shards, strict=False):
            ids = [f"{name}{n}" for n in range(len(texts))]
            write_texts(tmp_path / "in" / f"{name}.parquet", text=texts, id=ids)
        return Spec.model_validate(
            {
                "input": {"path": str(tmp_path / "in"), "text": "text", "id": "id"},
                "model": {"name": str(tiny_bert), "precision": "exact"},
                "output": {"path": str(tmp_path / "out")},
                "run": {"runner": "inline", "device": "cpu", "unit_rows": 1000, **settings},
            }
        )

    return make


def begun(spec: Spec, times: int = attempts.MOST) -> tuple[Planned, Unit]:
    """The plan and its only unit, begun so often."""
    planned = make_plan(spec, open_store(spec.output.path))
    (unit,) = planned.units
    for _ in range(times):
        assert attempts.begin(planned.plan, unit)
    return planned, unit


def rejects(spec: Spec) -> list[tuple[str, str]]:
    """(id, code) of every reject."""
    found = []
    for path in sorted(Path(spec.output.path).glob("_embed/rejects/*")):
        rows = pa.ipc.open_file(path.read_bytes()).read_all().to_pylist()
        found += [(row["id"], row["code"]) for row in rows]
    return found


def vectors(spec: Spec) -> dict[str, bytes]:
    tables = [pq.read_table(path) for path in Path(spec.output.path).glob("data/*/*.parquet")]
    rows = pa.concat_tables(tables).to_pylist()
    return {row["id"]: str(row["vector"]) for row in rows}


def slow(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.slow)


class Rows:
    """A child that dies of some rows, alone or with others."""

    how = "signal 9"

    def __init__(self, count: int, deadly: Iterable[int]) -> None:
        self.count, self.deadly, self.deaths = count, set(deadly), 0

    def encode(self, unit: Unit, without: Iterable[int]) -> object | None:
        dies = bool(set(range(self.count)).difference(without) & self.deadly)
        self.deaths += dies
        return None if dies else self


@given(
    st.integers(1, 300).flatmap(
        lambda count: st.tuples(
            st.just(count), st.sets(st.integers(0, count - 1), min_size=1, max_size=5)
        )
    )
)
def test_bisection_finds_each_row_and_no_other(case: tuple[int, set[int]]) -> None:
    count, bad = case
    child = Rows(count, bad)
    unit = Unit("", (Slice(Shard("", "", 0, "", "", count), 0, count),))
    assert sorted(bad) == apart._find(child, unit, list(range(count)))
    assert child.deaths <= len(bad) * (count.bit_length() + 1)


def test_a_unit_is_handed_out_three_times_and_then_encoded_apart(job: Callable[..., Spec]) -> None:
    planned, unit = begun(job(TEXTS))
    assert not attempts.begin(planned.plan, unit)
    assert unit is attempts.prepare(planned.plan, unit, load.load_tokenizer(planned.plan))


def test_a_unit_that_is_committed_leaves_no_attempt(job: Callable[..., Spec]) -> None:
    spec = job(TEXTS)
    planned, _ = begun(spec, 0)
    list(run_inline(planned.plan, planned.units, "stop", spec.run))
    assert [] == list(open_store(spec.output.path).list("_embed/attempts"))


def test_a_unit_that_was_only_unlucky_has_the_bytes_of_any_other(
    job: Callable[..., Spec], tmp_path: Path
) -> None:
    """Three kills from outside, and nothing is wrong with it."""
    spec = job([*TEXTS, TEXTS[0]])
    run(spec)
    expected = parts(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "before")
    begun(spec)
    report = run(spec)
    assert (report.rows_encoded, report.rows_deduplicated, report.rejects) == (4, 1, {})
    assert expected == parts(tmp_path / "out")
    assert [] == list((tmp_path / "out").glob("_embed/attempts/*/*"))  # gc: the snapshot is there


def test_rows_that_kill_the_tokenizer_or_the_encoder_are_found(
    job: Callable[..., Spec], deadly: Callable[..., None], tiny_bert: Path, capfd: Any
) -> None:
    """One of each, in a unit of others, which all have the vectors they had."""
    clean = job(TEXTS[:2])
    run(clean)
    before = vectors(clean)
    Path(clean.output.path).rename(f"{clean.output.path}-clean")
    spec = job([*TEXTS[:2], "a fatal text", "moon"])
    planned, unit = begun(spec)
    deadly("tokens:fatal", f"encode:{token(tiny_bert, 'moon')}", "say:")
    encoded = apart.encode_apart(planned.plan, unit)
    assert 2 == encoded.rows_out
    assert [2, 3] == attempts.poison_of(open_store(spec.output.path), unit)
    # The driver dies before the commit. The next one asks nobody, and leaves out the same rows.
    deadly()
    report = run(spec)
    assert {"CRASHED": 2} == report.rejects
    assert [("a2", "CRASHED"), ("a3", "CRASHED")] == rejects(spec)
    assert before == vectors(spec)
    said = capfd.readouterr().err
    assert "was begun 3 times and not finished" in said
    assert "Traceback" not in said


def test_what_is_known_to_kill_is_kept_and_added_to(job: Callable[..., Spec]) -> None:
    planned, unit = begun(job(TEXTS))
    store = open_store(planned.plan.output)
    assert [2] == attempts.note_poison(store, unit, [2])
    assert [1, 2] == attempts.note_poison(store, unit, [2, 1]) == attempts.poison_of(store, unit)


def test_two_that_search_at_once_agree(job: Callable[..., Spec], monkeypatch: Any) -> None:
    """The second finds another row first, and loses: what stands is what the first has found."""
    planned, unit = begun(job(TEXTS))
    store = open_store(planned.plan.output)
    attempts.note_poison(store, unit, [3])
    sizes = iter([None])
    monkeypatch.setattr(store, "size", lambda name: next(sizes))
    assert [3] == attempts.note_poison(store, unit, [1])


@pytest.mark.parametrize(
    ("pair", "kind", "words"),
    [
        ("load:", ModelError, ("ENCODER_CRASHES", "tiny-bert", "signal 4")),
        slow("read:b.parquet", InputError, ("UNREADABLE", "b.parquet", "signal 7", "input.path")),
        slow("memory:3", TryAgain, ("UNIT_CRASHES", "a.parquet, rows 0 to 1", "more memory")),
        slow("wrong:1", ModelError, ("CANARY", "is not the reference")),
        slow("wrong:2", ModelError, ("DRIFT", "last unit is not committed")),
    ],
)
def test_what_kills_and_is_no_row_is_said(
    job: Callable[..., Spec], deadly: Callable[..., None], pair: str, kind: Any, words: Any
) -> None:
    """The model itself, a shard, all rows at once, bad memory: no row is given up for these."""
    spec = job(TEXTS[:2], TEXTS[2:])
    planned, unit = begun(spec)
    deadly(pair)
    with pytest.raises(kind) as caught:
        apart.encode_apart(planned.plan, unit)
    assert all(word in str(caught.value) for word in words), caught.value
    assert [] == attempts.poison_of(open_store(planned.plan.output), unit)


@pytest.mark.slow
def test_too_many_rows_that_kill_are_no_bad_rows(
    job: Callable[..., Spec], deadly: Callable[..., None], monkeypatch: Any
) -> None:
    monkeypatch.setattr(apart, "MOST_ROWS", 1)
    planned, unit = begun(job(["fatal 1", "fatal 2", "fatal 3"]))
    deadly("tokens:fatal")
    with pytest.raises(ModelError, match="ENCODER_CRASHES.*more than 1 of them"):
        apart.encode_apart(planned.plan, unit)


def test_the_child_says_what_is_wrong_and_is_the_first_to_go(
    job: Callable[..., Spec], tmp_path: Path
) -> None:
    """An error in it is the run's; if memory runs out it dies before the driver does; and Ctrl-C
    is not for it."""
    planned, unit = begun(job(TEXTS))
    with apart._Child(planned.plan) as child:
        assert child.encode(unit, range(unit.rows)).rows_out == 0
        pid = child._process.pid
        assert "1000" == Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
        assert os.getsid(pid) != os.getsid(0)
        (tmp_path / "in" / "a.parquet").unlink()
        with pytest.raises(InputError, match="INPUT_GONE"):
            child.encode(unit, ())
    assert not Path(f"/proc/{pid}").exists()


def test_attempts_of_an_open_plan_stay_and_all_others_go(job: Callable[..., Spec]) -> None:
    run(job(TEXTS))
    spec = job([*TEXTS, "one more"])
    planned, unit = begun(spec, 1)
    store = open_store(planned.plan.output)
    freeze(store, planned)
    other = Unit("0" * 32, unit.slices)
    attempts.begin(planned.plan, other)
    collect(store, 1)
    assert [attempt_name(unit.key, 1)] == list(store.list("_embed/attempts"))
    run(spec)
    assert [] == list(store.list("_embed/attempts"))


@pytest.mark.parametrize("count", [1, 4])
def test_a_death_of_something_else_costs_no_row(
    job: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The first time that its process has the unit, a part of it, a single row, it is ended."""
    spec, ended = job(TEXTS[:count]), set()
    planned, unit = begun(spec)
    right = apart._Child._ask

    def ask(child: apart._Child, request: Any) -> Any:
        without = len(request[1]) if isinstance(request, tuple) else count
        if without < count and without not in ended:
            ended.add(without)
            child._process.kill()
            child._process.wait()
        return right(child, request)

    monkeypatch.setattr(apart._Child, "_ask", ask)
    encoded = apart.encode_apart(planned.plan, unit)
    assert ended == ({0} if count == 1 else {0, 2, 3})
    assert (encoded.rows_out, len(encoded.rejects)) == (count, 0)
