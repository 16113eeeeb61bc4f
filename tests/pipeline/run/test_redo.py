"""A sequence that half precision cannot hold is encoded again alone in fp32; only then rejected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.contracts import Hidden, Loaded
from embedmill.pipeline.flow import encode, prepare
from embedmill.pipeline.load import load_encoder as planned_encoder
from embedmill.pipeline.load import load_tokenizer
from embedmill.pipeline.plan.plan import Planned, make_plan
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.spec import Spec


class Overflows:
    """A real encoder, but some sequences come out as infinity: what fp16 does on a GPU."""

    def __init__(self, encoder: Any, length: int) -> None:
        self.encoder, self.length = encoder, length

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode(self, pack: Pack) -> Hidden:
        hidden = self.encoder.encode(pack)
        with torch.inference_mode():
            for s in np.flatnonzero(pack.lengths_S == self.length):
                hidden.hidden_TD[pack.cu_S1[s] + 1, 3] = torch.inf
        return hidden


def overflowing(loaded: Loaded, length: int) -> Loaded:
    """The same with an encoder that overflows."""
    return dataclasses.replace(loaded, encoder=Overflows(loaded.encoder, length))


@pytest.fixture
def planned(
    tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]
) -> Callable[[str], Planned]:
    """Plans a job of five rows in a precision; the second is the only one of 5 tokens."""
    texts = ["lemon", "yellow sour fruit", "river stone", "a deep sea of salt water", "wind"]
    shard = write_texts(tmp_path / "in" / "a.parquet", id=list("abcde"), text=texts)

    def plan(precision: str) -> Planned:
        spec = {
            "input": {"path": str(shard), "text": "text", "id": "id"},
            "model": {"name": str(tiny_bert), "precision": precision},
            "output": {"path": str(tmp_path / precision)},
        }
        return make_plan(Spec.model_validate(spec), open_store(str(tmp_path / precision)))

    return plan


def test_an_overflow_in_half_precision_gets_the_fp32_vector(
    planned: Callable[[str], Planned],
) -> None:
    """The row's vector is the one of fp32, to the last bit; its neighbours stay as they were."""
    plan = planned("fast").plan
    prepared = prepare(plan, planned("fast").units[0], load_tokenizer(plan))
    fast = planned_encoder(plan)
    exact = planned("exact").plan

    got = encode(plan, overflowing(fast, 5), prepared)
    alone = encode(exact, planned_encoder(exact), prepared).table["vector"].to_pylist()
    plain = encode(plan, fast, prepared).table["vector"].to_pylist()

    assert 5 == len(got.table)
    vectors = got.table["vector"].to_pylist()
    assert alone[1] == vectors[1]
    assert plain[1] != vectors[1]
    assert [plain[n] for n in (0, 2, 3, 4)] == [vectors[n] for n in (0, 2, 3, 4)]


def test_what_fp32_cannot_encode_is_a_reject(planned: Callable[[str], Planned]) -> None:
    """NON_FINITE for that row alone; the others have their vectors."""
    job = planned("exact")
    prepared = prepare(job.plan, job.units[0], load_tokenizer(job.plan))

    got = encode(job.plan, overflowing(planned_encoder(job.plan), 5), prepared)

    assert ["a", "c", "d", "e"] == got.table["id"].to_pylist()
    assert [("b", "NON_FINITE")] == [(r["id"], r["code"]) for r in got.rejects.to_pylist()]
