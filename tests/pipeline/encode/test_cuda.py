"""What only a GPU can show: every kind of job on it, against fp32 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedmill.pipeline import flow
from embedmill.pipeline.encode.auto import AutoEncoder
from embedmill.pipeline.encode.bert import PackedBert
from embedmill.pipeline.encode.cuda import PackedCuda
from embedmill.pipeline.encode.load import load_encoder
from embedmill.pipeline.load import load_encoder as planned_encoder
from embedmill.pipeline.load import load_tokenizer
from embedmill.pipeline.plan.plan import make_plan
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.plan import Plan
from embedmill.schemas.spec import Spec
from tests.conftest import WORDS
from tests.tiny import save_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

COLUMNS: list[dict[str, Any]] = [
    {"name": "v", "pooling": "mean", "normalize": True},
    {"name": "c", "pooling": "cls", "dtype": "float16", "normalize": True},
    {"name": "w", "pooling": "weighted_mean", "dim": 32, "normalize": True},
    {"name": "m", "pooling": "max", "normalize": False},
    {"name": "i", "source": "input", "pooling": "mean", "normalize": True},
    {"name": "t", "pooling": "tokens", "normalize": False},
]


@pytest.fixture
def job(tmp_path: Path, write_texts: Callable[..., Path]) -> Callable[..., tuple[Plan, Any]]:
    """A plan and its first unit: 300 texts of 1 to 40 words."""
    random = np.random.default_rng(2)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 40))) for _ in range(300)]
    shard = write_texts(tmp_path / "in" / "a.parquet", id=list(range(300)), text=texts)

    def plan(model: Path, precision: str, columns: list, **settings: Any) -> tuple[Plan, Any]:
        output = tmp_path / f"{precision}-{len(list(tmp_path.iterdir()))}"
        spec = {
            "input": {"path": str(shard), "text": "text", "id": "id"},
            "model": {"name": str(model), "precision": precision, **settings},
            "output": {"path": str(output), "columns": columns},
            "run": {"device": "cuda" if precision == "fast" else "cpu"},
        }
        planned = make_plan(Spec.model_validate(spec), open_store(str(output)))
        return planned.plan, planned.units[0]

    return plan


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def encoded(plan: Plan, unit: Any, encoder: Any = None) -> Any:
    prepared = flow.prepare(plan, unit, load_tokenizer(plan))
    return flow.encode(plan, encoder or planned_encoder(plan), prepared)


def values(table: Any, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    while not isinstance(column, np.ndarray):
        nested = hasattr(column, "flatten") and hasattr(column.type, "value_type")
        column = column.flatten() if nested else column.to_numpy(zero_copy_only=False)
    return column.astype(np.float64)


def cosines(got: np.ndarray, want: np.ndarray, dim: int) -> np.ndarray:
    got, want = got.reshape(-1, dim), want.reshape(-1, dim)
    return (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)


@pytest.mark.parametrize("kind", ["bert", "mpnet", "modernbert", "albert", "deberta-v2"])
def test_every_column_is_that_of_fp32(tmp_path, job, kind):
    """Our pass with graphs, ours without, transformers' over packs, and padded."""
    save_model(made(tmp_path / "model"), kind, hidden_size=64, num_attention_heads=4)
    fast, exact = (job(tmp_path / "model", p, COLUMNS) for p in ("fast", "exact"))
    encoder = planned_encoder(fast[0])
    assert {"bert": PackedCuda, "mpnet": PackedBert}.get(kind, AutoEncoder) is type(encoder)
    if kind == "modernbert":
        assert "varlen" == encoder.engine["attention"]
    got, want = encoded(*fast, encoder).table, encoded(*exact).table
    assert got["id"].equals(want["id"])
    for column in fast[0].columns:
        apart = 1 - cosines(*(values(t, column.name) for t in (got, want)), column.dim)
        assert apart.max() < 1e-3, (column.name, apart.max())


def test_windows_and_their_mean(tmp_path, job):
    save_model(made(tmp_path / "model"), hidden_size=64)
    for long_text, columns in (("window", COLUMNS), ("window_mean", COLUMNS[:5])):
        how = {"long_text": long_text, "max_tokens": 16}
        fast, exact = (job(tmp_path / "model", p, columns, **how) for p in ("fast", "exact"))
        got, want = encoded(*fast).table, encoded(*exact).table
        assert len(got) == len(want)
        apart = 1 - cosines(values(got, "v"), values(want, "v"), 64)
        assert apart.max() < 1e-4


def test_a_unit_gives_equal_bytes_twice_and_from_two_threads(tmp_path, job):
    """Two units at once on one encoder, as a run does it."""
    from concurrent.futures import ThreadPoolExecutor

    save_model(made(tmp_path / "model"), hidden_size=64)
    plan, unit = job(tmp_path / "model", "fast", COLUMNS)
    encoder = planned_encoder(plan)
    with ThreadPoolExecutor(2) as pool:
        tables = list(pool.map(lambda n: encoded(plan, unit, encoder).table, range(6)))
    assert all(table.equals(tables[0]) for table in tables)


def test_a_state_that_half_precision_cannot_hold_comes_from_fp32(tmp_path, job):
    """Large weights overflow fp16; the vectors are those of fp32 on the same device."""
    model = save_model(made(tmp_path / "model"), hidden_size=64)
    with torch.no_grad():
        model.encoder.layer[0].intermediate.dense.weight.mul_(3e4)
        model.encoder.layer[0].output.dense.weight.mul_(3e1)
    model.float().save_pretrained(tmp_path / "model")
    plan, unit = job(tmp_path / "model", "fast", COLUMNS[:1])
    exact = replace(plan, settings=replace(plan.settings, precision="exact"))
    got, want = encoded(plan, unit), encoded(exact, unit)
    assert 300 == len(got.table) == len(want.table)
    assert np.isfinite(values(got.table, "v")).all()
    assert np.abs(values(got.table, "v") - values(want.table, "v")).max() < 1e-4


def test_too_little_memory_halves_the_packs(tmp_path, job):
    """The same vectors, but for the last bits, and the engine says what happened."""
    save_model(
        made(tmp_path / "model"), hidden_size=1024, num_attention_heads=16, intermediate_size=8192
    )
    plan, unit = job(tmp_path / "model", "fast", COLUMNS[:1])
    want = encoded(plan, unit)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    encoder = planned_encoder(plan)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 120e6) / total)
    try:
        got = encoded(plan, unit, encoder)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert int(encoder.engine["most_tokens"]) < 16384
    assert any("most_tokens" in one for one in got.provenance)
    apart = 1 - cosines(values(got.table, "v"), values(want.table, "v"), 1024)
    assert apart.max() < 1e-5


def test_auto_takes_the_gpu(tmp_path):
    from embedmill.pipeline.plan.resolve import count_gpus, resolve_device

    save_model(tmp_path, hidden_size=64)
    assert count_gpus() == torch.cuda.device_count()
    assert "cuda" == resolve_device("auto")
    encoder = load_encoder(tmp_path, device="cuda", precision="exact", threads=2)
    assert type(encoder) is PackedBert
    assert "cuda" == encoder.engine["device"]
