"""`plan`: what people spend by. Rows are exact, the rest says what it is from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embedmill.jobs.estimate import rates
from embedmill.jobs.estimate.cost import BASE, LARGE, MEASURED, MINILM
from embedmill.jobs.estimate.plan import plan, plan_text
from embedmill.jobs.run import run
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.spec import Spec
from tests.conftest import ROOT

LENGTHS = (1, 1, 3, 20, 60, 120, 200)  # words; with [CLS] and [SEP] two tokens more


@dataclass(frozen=True)
class Job:
    """A spec over words, most of them known to the model."""

    spec: dict[str, Any]

    def plan(self, **how: Any) -> dict[str, Any]:
        run = {**self.spec["run"], **how}
        return plan(Spec.model_validate({**self.spec, "run": run}))

    def run(self) -> dict[str, Any]:
        return run(Spec.model_validate(self.spec)).to_json()

    def measured(self, run_id: str, **changes: Any) -> None:
        """Leaves the report of a run that was like the first one, but for the changes."""
        store = open_store(self.spec["output"]["path"])
        name = next(store.list("_embed/report"))
        report = {**json.loads(store.read(name)), "run_id": run_id, **changes}
        store.create(f"_embed/report/{run_id}.json", json.dumps(report).encode())


@pytest.fixture
def job(tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]) -> Job:
    texts = [" ".join(["wind"] * n) for n in LENGTHS]
    write_texts(tmp_path / "in" / "a.parquet", text=[*texts, None])
    return Job(
        {
            "input": {"path": str(tmp_path / "in"), "text": "text"},
            "model": {"name": str(tiny_bert)},
            "output": {"path": str(tmp_path / "out")},
            "run": {"runner": "inline", "device": "cpu"},
        }
    )


def test_shares_and_lengths_come_with_their_n(job: Job) -> None:
    facts = job.plan()

    assert (facts["rows"], facts["rows_new"], facts["sample"]) == (8, 8, 8)
    assert facts["duplicates_estimated"] == 1
    assert facts["cut_estimated"] == 1
    assert facts["rejects_estimated"] == 1
    sevenths = {most: round(7 * share) for most, share in facts["tokens_histogram"]}
    assert sevenths == {8: 3, 32: 1, 64: 1, 128: 2}  # 128: the model's limit
    text = plan_text(facts)
    assert "duplicates 1 (12.5%), cut 1 (12.5%), rejected 1 (12.5%), from a sample of 8" in text
    assert "1 to 8" in text
    assert "in 1 shard: 8 new" in text


def test_a_plan_is_what_the_run_does(job: Job) -> None:
    facts = job.plan()
    report = job.run()

    assert facts["tokens_estimated"] == report["tokens"]
    assert facts["rows_new"] == report["rows_in"]


def test_a_given_rate_and_price_give_time_and_cost(job: Job) -> None:
    facts = job.plan(tokens_per_s=0.5, price_per_hour=3600.0)

    assert facts["seconds_estimated"] == 2 * facts["tokens_estimated"]
    assert facts["cost_estimated"] == facts["seconds_estimated"]
    assert facts["rate_from"] == "given in run.tokens_per_s"
    assert "cost" in plan_text(facts)


def test_without_a_price_there_is_no_cost(job: Job) -> None:
    facts = job.plan()

    assert facts["cost_estimated"] is None
    assert "cost" not in plan_text(facts)
    assert "assumed" in plan_text(facts)


def test_a_rate_is_that_of_the_largest_of_the_last_runs(
    job: Job, write_texts: Callable[..., Path]
) -> None:
    job.run()
    write_texts(Path(job.spec["input"]["path"]) / "b.parquet", text=["rain and wind"] * 10)
    like = {"tokens": 1000, "seconds": 14.0, "startup_seconds": 4.0}
    job.measured("20990101T000000Z-000000", **like)
    job.measured("20990102T000000Z-000000", tokens=10, seconds=5.0, startup_seconds=4.9)
    job.measured("20990103T000000Z-000000", **{**like, "tokens": 9999}, fingerprint="another")
    job.measured("20990104T000000Z-000000", **{**like, "tokens": 9999}, engine={"device": "cuda"})

    facts = job.plan()

    assert facts["rate_from"] == "measured by run 20990101T000000Z-000000"
    assert facts["tokens_per_s"] == 100
    assert facts["seconds_estimated"] == round(4 + facts["tokens_estimated"] / 100, 1)


def test_nights_without_news_do_not_hide_what_was_measured(job: Job) -> None:
    job.run()
    job.measured("20990101T000000Z-000000", tokens=1000, seconds=14.0, startup_seconds=4.0)
    for day in range(10, 25):
        job.measured(f"209901{day}T000000Z-000000", tokens=0)

    assert job.plan()["rate_from"] == "measured by run 20990101T000000Z-000000"


def test_only_the_last_runs_are_asked(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "NEWEST", 1)
    job.run()
    job.measured("20990101T000000Z-000000", tokens=10**9)
    job.measured("20990102T000000Z-000000", tokens=100, seconds=11.0, startup_seconds=1.0)

    assert job.plan()["rate_from"] == "measured by run 20990102T000000Z-000000"


def test_nothing_to_do_takes_no_time(job: Job) -> None:
    job.run()

    facts = job.plan(price_per_hour=5.0)

    assert (facts["units"], facts["seconds_estimated"], facts["cost_estimated"]) == (0, 0.0, 0.0)
    assert "nothing to encode" in plan_text(facts)


@pytest.mark.parametrize("how", [{"tokens_per_s": 0.0}, {"price_per_hour": -1.0}])
def test_a_rate_is_above_zero_and_a_price_not_below(job: Job, how: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(how))):
        job.plan(**how)


def test_neither_is_identity(job: Job) -> None:
    priced = job.plan(tokens_per_s=7.0, price_per_hour=7.0)

    assert priced["fingerprint"] == job.plan()["fingerprint"]


def test_a_billion_rows_take_what_was_measured_and_cost_what_is_given(job: Job) -> None:
    facts = job.plan(prices={"h200": 2.0})
    gpu, *cores = facts["billion_rows"]

    assert [("h200", "fast"), ("amx_core", "exact"), ("zen4_core", "exact")] == [
        (row["hardware"], row["precision"]) for row in facts["billion_rows"]
    ]
    tokens = facts["tokens_estimated"] / facts["sample"]
    hours = 1e9 * tokens / gpu["tokens_per_s"] / 3600
    assert hours == pytest.approx(gpu["hours_per_billion_rows"], rel=0.01, abs=0.01)
    assert gpu["cost_per_billion_rows"] == pytest.approx(
        2 * gpu["hours_per_billion_rows"], abs=0.02
    )
    assert [None, None] == [core["cost_per_billion_rows"] for core in cores]
    text = plan_text(facts)
    assert "one H200, fast:" in text and "costs" in text
    assert 1 == text.count("costs")


def test_rates_are_the_measured_ones_and_between_them_rise_with_smaller_models() -> None:
    h200 = next(kind for kind in MEASURED if kind.name == "h200")

    assert [11.87e6, 2.42e6, 0.78e6] == [h200.tokens_per_s(at) for at in (MINILM, BASE, LARGE)]
    assert 2.42e6 < h200.tokens_per_s(MINILM * 2) < 11.87e6
    assert h200.tokens_per_s(MINILM / 2) == 2 * 11.87e6
    assert h200.tokens_per_s(LARGE * 2) == 0.78e6 / 2
    for kind in MEASURED:
        assert (ROOT / "docs" / "benchmarks" / kind.page).exists()


def test_hardware_that_nobody_measured_has_no_price(job: Job) -> None:
    with pytest.raises(ValueError, match="prices"):
        job.plan(prices={"abacus": 1.0})
