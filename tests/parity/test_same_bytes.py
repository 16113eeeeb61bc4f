"""The bytes of the parts do not depend on the runner or on how many workers there are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.run import run
from embedmill.schemas.spec import Spec

WORDS = "lemon river stone honey bread cloud yellow sour fruit deep water north wind".split()
COLUMNS = [
    {"name": "vector"},
    {"name": "codes", "dtype": "int8"},
    {"name": "t", "pooling": "tokens"},
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, write_texts: Callable[..., Path]) -> Path:
    """Three shards of pairs of many lengths, with duplicates, nulls and kept columns."""
    folder = tmp_path_factory.mktemp("shards")
    for n in range(3):
        texts = [" ".join(WORDS[(n + i) % 7 : (n + i) % 7 + i % 9]) for i in range(150)]
        write_texts(
            folder / f"{n}.parquet",
            row_group_size=40,
            key=[n * 1000 + i for i in range(150)],
            a=[None if i % 50 == 7 else text for i, text in enumerate(texts)],
            b=[WORDS[i % 13] if i % 3 else None for i in range(150)],
            tags=[[str(i), "x"] for i in range(150)],
        )
    return folder


def digests(shards: Path, model: Path, output: Path, **settings: Any) -> dict[str, str]:
    """sha256 of every part and reject file of a run."""
    spec = {
        "input": {
            "path": str(shards),
            "text": "a",
            "pair": "b",
            "id": "key",
            "keep": ["tags", "a"],
        },
        "model": {"name": str(model), "precision": "exact"},
        "output": {"path": str(output), "columns": COLUMNS},
        "run": {"unit_rows": 70, **settings},
    }
    report = run(Spec.model_validate(spec))
    ways = ("encoded", "deduplicated", "reused", "rejected")
    assert 450 == report.rows_in == sum(getattr(report, f"rows_{way}") for way in ways)
    files = [*output.glob("data/*/*.parquet"), *output.glob("_embed/rejects/*")]
    assert len(files) > 9
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.ray
def test_every_runner_gives_equal_bytes(shards: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """A thread, two processes, Ray with one encoder and Ray with two: the same files."""
    ways: dict[str, dict[str, Any]] = {
        "thread": {"runner": "inline"},
        "processes": {"runner": "inline", "workers": 2},
        "ray": {"runner": "ray"},
        "ray-two": {"runner": "ray", "encoders": 2},
    }
    results = {
        name: digests(shards, tiny_bert, tmp_path / name, **way) for name, way in ways.items()
    }

    for name in ways:
        assert results["thread"] == results[name], name


@pytest.mark.ray
def test_a_refresh_gives_equal_bytes_too(shards: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """All shards under new names, one row in thirty new: what is reused does not show."""
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in shards.iterdir():
        table = pq.read_table(path)
        texts = table["a"].to_pylist()
        texts[::30] = [f"{text} {n}" for n, text in enumerate(texts[::30])]
        table = table.set_column(table.schema.names.index("a"), "a", pa.array(texts))
        pq.write_table(table, renamed / f"new-{path.name}")
    results = {}
    for way in ("inline", "ray"):
        digests(shards, tiny_bert, tmp_path / way, runner="inline")
        results[way] = digests(renamed, tiny_bert, tmp_path / way, runner=way)
        last = max((tmp_path / way / "_embed" / "report").iterdir())
        report = json.loads(last.read_text())
        assert 0 < report["rows_encoded"] <= 15
        assert report["rows_reused"] > 350

    assert results["inline"] == results["ray"]
