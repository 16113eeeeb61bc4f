"""A refresh encodes only inputs that the last snapshot does not have, and nobody can tell."""

from __future__ import annotations

import os

import pytest

import embedmill.jobs.run
from embedmill.jobs.estimate.plan import plan
from embedmill.jobs.verify.output import verify
from embedmill.pipeline import load
from tests.pipeline.conftest import Job
from tests.pipeline.refreshes import (
    ROWS,
    SHARDS,
    fill,
    made,
    numbers,
    refresh,
    text,
    vectors,
    write,
)


@pytest.fixture
def filled(job: Job) -> Job:
    """A snapshot over four shards of 25 rows, no two equal."""
    return fill(job)


@pytest.fixture
def no_encoder(filled: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads an encoder from now on fails."""

    def refuse(plan: object) -> None:
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr(load, "load_encoder", refuse)


@pytest.mark.usefixtures("no_encoder")
def test_nothing_changed_costs_nothing(filled: Job) -> None:
    before = {name: os.stat(filled.store.root / name) for name in filled.store.list("data")}

    report = refresh(filled)

    assert (0, SHARDS * ROWS, 0) == (report.rows_encoded, report.rows_reused, report.units)
    assert before == {name: os.stat(filled.store.root / name) for name in filled.store.list("data")}


def test_one_row_in_a_hundred_costs_one_row_in_a_hundred(filled: Job) -> None:
    """One row of each shard is another: these are encoded, and no others."""
    before = vectors(filled)
    for shard in range(SHARDS):
        write(filled, shard, [*numbers(shard)[:-1], 1000 + shard])

    report = refresh(filled)

    assert (SHARDS, SHARDS * (ROWS - 1)) == (report.rows_encoded, report.rows_reused)
    assert 0 < report.tokens < 100
    after = vectors(filled)
    assert {f"d{1000 + shard}" for shard in range(SHARDS)} == after.keys() - before.keys()
    assert all(before[name] == after[name] for name in before.keys() & after.keys())
    assert verify(filled.spec().output.path, sample=40)["problems"] == []


@pytest.mark.usefixtures("no_encoder")
def test_new_names_for_all_shards_cost_only_reading(filled: Job) -> None:
    """Cut otherwise, in another order, and with ids that are their places."""
    before = vectors(filled)
    order = sorted(range(SHARDS * ROWS), key=lambda n: n * 37 % 101)
    for shard in range(SHARDS):
        (filled.folder / "in" / f"{shard}.parquet").unlink()
        write(filled, shard, order[shard::SHARDS], name=f"part-{shard}.parquet")

    report = refresh(filled)

    assert (0, SHARDS * ROWS, 0) == (report.rows_encoded, report.rows_reused, report.tokens)
    assert (0.0, 0.0) == (report.encode_seconds, report.encoder_busy)
    assert before == vectors(filled)
    assert refresh(filled, input={"id": None}).rows_encoded == 0
    assert verify(filled.spec().output.path)["problems"] == []


def test_another_second_text_is_another_input(job: Job) -> None:
    b = [f"stone {n}" for n in range(20)]
    sections = {"input": {"id": "id", "pair": "b"}}
    write(job, 0, list(range(20)), b=b)
    refresh(job, **sections)
    write(job, 0, list(range(20)), b=[*b[:5], "river", *b[6:10], "", *b[11:]])

    report = refresh(job, **sections)

    assert (2, 18) == (report.rows_encoded, report.rows_reused)


def test_rows_that_are_equal_in_their_unit_share_what_is_reused(filled: Job) -> None:
    write(filled, 0, [3, 3, 4, 500, 500, 501])

    report = refresh(filled)

    assert (2, 1, 3 + 3 * ROWS) == (
        report.rows_encoded, report.rows_deduplicated, report.rows_reused,
    )  # fmt: skip


def test_rows_move_between_shards_and_rejects_are_judged_again(filled: Job) -> None:
    write(filled, 0, [*numbers(1)[:10], 7])
    (filled.folder / "in" / "1.parquet").unlink()
    more = {"text": [text(8), None, "  ", text(9)], "id": ["a", "b", "c", "d"]}
    filled.shard("4.parquet", **more)
    for _ in range(2):
        report = refresh(filled)
        filled.shard("4.parquet", 2, **more)
        assert (0, 2) == (report.rows_encoded, report.rows_rejected)


def test_another_name_or_kept_column_costs_only_reading(filled: Job) -> None:
    report = refresh(
        filled,
        input={"id": "text", "keep": ["id"]},
        output={"columns": [{"name": "other"}]},
    )

    assert (0, SHARDS * ROWS) == (report.rows_encoded, report.rows_reused)
    assert verify(filled.spec().output.path, sample=10)["ok"]


def test_another_fingerprint_reuses_nothing(filled: Job) -> None:
    report = refresh(filled, model={"max_tokens": 16}, output={"replace": True})

    assert (SHARDS * ROWS, 0) == (report.rows_encoded, report.rows_reused)


KINDS = [
    {"name": "vector"},
    {"name": "small", "dtype": "float16", "dim": 8, "normalize": True},
    {"name": "codes", "dtype": "int8"},
    {"name": "bits", "dtype": "binary"},
    {"name": "t", "pooling": "tokens"},
    {"name": "raw", "source": "input", "pooling": "max"},
]
MEANS = [{"name": "vector"}]
LONG = [f"{'deep water ' * 40} {n}" for n in range(3)]


@pytest.mark.parametrize(
    ("sections", "columns"),
    [
        ({"model": {"max_tokens": 12}}, KINDS),
        ({"model": {"max_tokens": 12, "long_text": "window", "stride": 2}}, MEANS),
        ({"model": {"max_tokens": 12, "long_text": "window_mean"}}, MEANS),
        ({"model": {"max_tokens": 12, "long_text": "reject"}}, MEANS),
        ({"input": {"pair": "b"}, "run": {"workers": 1}}, MEANS),
    ],
)
def test_parts_have_the_bytes_of_parts_without_reuse(
    job: Job, monkeypatch: pytest.MonkeyPatch, sections: dict, columns: list
) -> None:
    """Rejects, duplicates, cut and long texts among rows that stay, move, come and go."""
    sections = {**sections, "output": {"columns": columns}}
    sections["input"] = {"id": "id", "keep": ["tags"], **sections.get("input", {})}
    before = [text(n) if n % 7 else None for n in range(60)] + LONG
    after = before[::-1][:40] + [text(n) for n in (3, 70, 71, 70)] + [LONG[1] + " more"]

    def shards(texts: list[str | None]) -> None:
        for n, some in enumerate((texts[:20], texts[20:])):
            size = range(len(some))
            b = [None if i % 2 else f"bread {i % 3}" for i in size]
            job.shard(
                f"{n}.parquet", 7, text=some, b=b, id=[n * 1000 + i for i in size],
                tags=[[str(i)] for i in size],
            )  # fmt: skip

    found = []
    for out in ("reused", "fresh"):
        job = Job(job.folder, job.model, job.write, out)
        shards(before)
        refresh(job, **sections)
        shards(after)
        for path in (job.folder / "in").iterdir():
            os.utime(path, ns=(5, 5))
        if out == "fresh":
            monkeypatch.setattr(embedmill.jobs.run, "freeze_index", lambda store, planned: planned)
        report = refresh(job, **sections)
        assert (report.rows_reused > 20) == (out == "reused")
        assert verify(str(job.store.root), sample=20)["problems"] == []
        found.append(made(job, 2))

    assert len(found[0]) > 5
    assert found[0] == found[1]


def test_a_plan_says_what_will_be_reused(filled: Job) -> None:
    sections = {"input": {"id": "id"}, "run": {"unit_rows": 1000}}
    for shard in range(SHARDS):
        (filled.folder / "in" / f"{shard}.parquet").unlink()
        new = range(900 + 10 * shard, 905 + 10 * shard)
        write(filled, shard, [*numbers(shard)[:20], *new], name=f"n{shard}.parquet")
    before = list(filled.store.list(""))

    facts = plan(filled.spec(**sections))

    assert (100, 0, 0) == (facts["rows_new"], facts["rows_changed"], facts["rows_carried"])
    assert (100, 80) == (facts["sample"], facts["reused_estimated"])
    assert before == list(filled.store.list(""))
    report = refresh(filled, **sections)
    assert (80, facts["tokens_estimated"]) == (report.rows_reused, report.tokens)
