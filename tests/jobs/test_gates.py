"""A night that went wrong as a whole makes no manifest: exit 4, parts stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from embedmill.jobs.run import run
from embedmill.schemas.errors import QualityError
from embedmill.schemas.quality import Quality
from embedmill.schemas.report import RunReport
from embedmill.schemas.spec import Spec

GOOD = ["lemon", "yellow sour fruit", "river stone", "deep sea water", "wind", "bread and honey"]
Job = Callable[..., RunReport]


@pytest.fixture
def job(tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]) -> Job:
    """Runs texts through a model with some gates."""

    def start(
        texts: list[str | None], quality: dict[str, Any], model: Path = tiny_bert
    ) -> RunReport:
        shard = tmp_path / "in" / "a.parquet"
        if not shard.exists():
            write_texts(shard, text=texts)
        spec = {
            "input": {"path": str(shard), "text": "text"},
            "model": {"name": str(model), "max_tokens": 8},
            "output": {"path": str(tmp_path / "out"), "quality": quality},
        }
        return run(Spec.model_validate(spec))

    return start


def test_a_good_night_has_no_warnings(job: Job) -> None:
    assert [] == job(GOOD, {}).warnings


@pytest.mark.parametrize(
    ("gate", "bad"),
    [
        ("unk_rate", ["☃ ☃ ☃", "☂ ☂"]),  # in no vocabulary
        ("cut_rate", ["wind " * 40, "sea " * 50]),
        ("reject_rate", [None, None, ""]),
    ],
)
def test_each_gate_warns_or_fails(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture, gate: str, bad: list[str | None]
) -> None:
    """Below its level nothing; above `warn` a line in the report; above `fail` exit 4."""
    texts = GOOD + bad

    with pytest.raises(QualityError, match=gate) as caught:
        job(texts, {gate: 0.1})

    assert 4 == caught.value.exit_code
    assert [] == list((tmp_path / "out").glob("_embed/manifest/*.json"))
    assert 1 == len(list((tmp_path / "out").glob("data/*/*.parquet")))

    report = job(texts, {gate: {"warn": 0.1}})

    assert [gate] == [line.split()[0] for line in report.warnings]
    assert gate in capsys.readouterr().err
    assert 1 == report.units_resumed


def test_an_unchanged_snapshot_is_judged_by_the_gates_of_today(job: Job) -> None:
    job([*GOOD, None], {})

    again = job(GOOD, {"reject_rate": {"warn": 0.1}})

    assert (0, ["reject_rate"]) == (again.units, [line.split()[0] for line in again.warnings])
    with pytest.raises(QualityError, match="reject_rate"):
        job(GOOD, {"reject_rate": 0.1})


def test_a_refresh_is_judged_by_what_it_encodes(
    job: Job, tmp_path: Path, write_texts: Callable[..., Path]
) -> None:
    """Good rows whose vectors are reused do not hide a bad one."""
    good = [f"{a}, {b}" for a in GOOD for b in GOOD]
    job(good, {})
    write_texts(tmp_path / "in" / "a.parquet", text=[*good, "☃ ☃ ☃"])

    with pytest.raises(QualityError, match=r"unk_rate 0\.6"):
        job(good, {"unk_rate": 0.5})


def test_a_model_that_says_the_same_of_everything_fails_by_default(
    job: Job, tmp_path: Path, tiny_bert: Path
) -> None:
    """Collapse: different inputs, equal vectors."""
    model = tmp_path / "flat"
    model.mkdir()
    for path in tiny_bert.rglob("*"):
        if path.is_file():
            (model / path.relative_to(tiny_bert)).parent.mkdir(exist_ok=True)
            (model / path.relative_to(tiny_bert)).write_bytes(path.read_bytes())
    weights = load_file(model / "model.safetensors")
    last = "encoder.layer.1.output.LayerNorm"
    constant = {f"{last}.weight": np.zeros(32, "f4"), f"{last}.bias": np.arange(32, dtype="f4")}
    save_file({**weights, **constant}, model / "model.safetensors")

    with pytest.raises(QualityError, match="collapse"):
        job(GOOD, {}, model)


def test_a_spread_of_norms_is_measured(job: Job) -> None:
    """Before normalization; any spread is above nothing."""
    with pytest.raises(QualityError, match="norm_spread"):
        job(GOOD, {"norm_spread": {"fail": 0.0}})


def test_a_number_is_the_level_that_fails() -> None:
    assert 0.25 == Quality(unk_rate=0.25).unk_rate


def test_a_gate_of_which_one_level_is_given_keeps_the_other() -> None:
    told = Quality.model_validate({"collapse": {"warn": 0.05}, "cut_rate": {"warn": None}})
    assert (0.05, 0.5) == (told.collapse.warn, told.collapse.fail)
    assert (None, None) == (told.cut_rate.warn, told.cut_rate.fail)
