"""Verify's sample: rows are encoded again, and whatever is not theirs is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.search.exact import search
from embedmill.jobs.verify.output import verify, verify_text
from embedmill.pipeline import load
from embedmill.schemas.errors import ModelError
from tests.jobs.conftest import Output, make_spec, run_by_hand
from tests.jobs.damage import change_part, parts, set_value


def test_a_sample_agrees_with_the_reference(made: Output) -> None:
    for count, rows in ((1, 1), (25, 25), (500, 158)):
        result = verify(made.path, sample=count)
        assert result["problems"] == []
        assert result["sample"]["n"] == rows
    assert result["sample"]["min_cosine"] > 1 - 1e-6
    assert 0 < result["sample"]["max_abs_diff"] < 3e-4
    assert "against the reference" in verify_text(result)


def test_a_sample_finds_another_vector(copy: Output) -> None:
    def swap(whole: pa.Table) -> pa.Table:
        at = whole.schema.get_field_index("vector")
        moved = whole.column(at).take(np.roll(np.arange(len(whole)), 1))
        return whole.set_column(at, whole.schema.field(at), moved)

    change_part(copy.store, 2, swap)
    path = parts(copy.store)[2]["path"]
    assert verify(copy.path)["ok"], "each vector is a good one"
    result = verify(copy.path, sample=500)
    assert len(result["problems"]) == 1
    assert path in result["problems"][0] and "from the reference" in result["problems"][0]
    assert result["sample"]["max_abs_diff"] > 1e-3


def test_a_sample_finds_a_small_drift_in_exact_vectors(copy: Output) -> None:
    flat = pq.read_table(copy.store.root / parts(copy.store)[0]["path"], columns=["vector"])
    first = flat.column(0)[0].as_py()
    change_part(copy.store, 0, set_value("vector", 0, first[0] + 1e-3 * np.linalg.norm(first)))
    result = verify(copy.path, sample=500)
    assert len(result["problems"]) == 1 and "vector" in result["problems"][0]
    assert result["sample"]["min_cosine"] > 0.999, "a cosine alone would not see it"


def test_a_sample_of_changed_and_lost_shards(two: Output) -> None:
    pq.write_table(pq.read_table(two.source / "1.parquet"), two.source / "1.parquet")
    (two.source / "0.parquet").unlink()
    result = verify(two.path, sample=20)
    assert any("0.parquet" in p and "gone" in p for p in result["problems"])
    assert any("1.parquet" in p and "changed" in p for p in result["problems"])
    assert len(result["problems"]) == 2
    assert result["sample"] == {"n": 0, "min_cosine": None, "max_abs_diff": None}


def test_a_sample_finds_ids_on_the_wrong_rows(copy: Output) -> None:
    def swap(whole: pa.Table) -> pa.Table:
        moved = whole.column(0).take(np.roll(np.arange(len(whole)), 1))
        return whole.set_column(0, whole.schema.field(0), moved)

    change_part(copy.store, 1, swap)
    assert verify(copy.path)["ok"]
    result = verify(copy.path, sample=500)
    assert all("another id or input" in problem for problem in result["problems"])
    assert result["problems"]


def test_a_sample_of_pairs_with_a_prompt(
    tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]
) -> None:
    a = ["lemon map " * n + "rain" for n in range(1, 40)]
    b = [None if n % 5 == 0 else "" if n % 5 == 1 else "house fire " * n for n in range(1, 40)]
    a[7] = None
    source = write_texts(tmp_path / "in.parquet", text=a, other=b, row_group_size=7)
    for truncation in ("longest_first", "only_second"):
        spec = make_spec(
            source, tiny_bert, tmp_path / truncation,
            input={"id": None, "keep": [], "pair": "{other}", "prompt": "sun: "},
            model={"truncation": truncation},
        )  # fmt: skip
        run_by_hand(spec)
        result = verify(spec.output.path, sample=100)
        assert result["problems"] == []
        assert result["sample"]["n"] >= 30


def test_a_model_by_a_relative_path_is_found_from_any_folder(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, write_texts
) -> None:
    """And one that is gone is no damage of the output."""
    model = tmp_path / "model"
    shutil.copytree(tiny_bert, model)
    source = write_texts(tmp_path / "in.parquet", text=["lemon", "rain"])
    spec = make_spec(source, Path("model"), tmp_path / "out", input={"id": None, "keep": []})
    monkeypatch.chdir(tmp_path)
    run_by_hand(spec)
    monkeypatch.chdir("/")
    load._open.cache_clear()
    assert verify(spec.output.path, sample=2)["sample"]["n"] == 2
    assert search(spec.output.path, "lemon", k=1)["hits"][0]["id"] == "in.parquet#0"
    shutil.rmtree(model)
    load._open.cache_clear()
    with pytest.raises(ModelError, match=f"MODEL_MISSING: {model}"):
        verify(spec.output.path, sample=2)
