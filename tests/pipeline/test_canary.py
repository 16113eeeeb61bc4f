"""An encoder that is not the model of the plan never starts; one that drifts never commits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedmill.pipeline.canary import TEXTS, Canary, make_canary
from embedmill.pipeline.load import load_encoder
from embedmill.pipeline.plan.plan import make_plan
from embedmill.pipeline.run.inline import run_inline
from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.errors import ModelError
from embedmill.schemas.plan import Plan
from embedmill.schemas.spec import Spec


@pytest.fixture(params=[None, "b"])
def job(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_bert: Path,
    write_texts: Callable[..., Path],
) -> tuple[Store, Any, Spec]:
    """A planned job with its canary, of single texts and of pairs."""
    shard = write_texts(tmp_path / "in" / "a.parquet", a=["lemon", "river"], b=["stone", "sea"])
    spec = Spec.model_validate(
        {
            "input": {"path": str(shard), "text": "a", "pair": request.param},
            "model": {"name": str(tiny_bert), "precision": "exact"},
            "output": {"path": str(tmp_path / "out")},
        }
    )
    store = open_store(spec.output.path)
    planned = make_plan(spec, store)
    make_canary(store, planned.plan)
    return store, planned, spec


def test_there_are_32_texts() -> None:
    assert 32 == len(TEXTS)


def test_the_right_encoder_passes(job: tuple[Store, Any, Spec]) -> None:
    """At the start, and as often as it is asked."""
    plan: Plan = job[1].plan

    canary = Canary(plan, load_encoder(plan))

    for _ in range(20):
        canary.check()


def test_the_canary_is_made_once(job: tuple[Store, Any, Spec]) -> None:
    store, planned, _ = job
    before = list(store.list("_embed/canary"))
    make_canary(store, planned.plan)

    assert 1 == len(before)
    assert before == list(store.list("_embed/canary"))


def test_an_encoder_with_one_wrong_weight_does_not_start(job: tuple[Store, Any, Spec]) -> None:
    """One value of one embedding table is enough."""
    plan: Plan = job[1].plan
    encoder = load_encoder(plan)
    encoder.encoder.ends.position[1, 3] += 5.0

    with pytest.raises(ModelError, match="CANARY"):
        Canary(plan, encoder)


def test_an_encoder_that_ignores_segments_does_not_start(job: tuple[Store, Any, Spec]) -> None:
    """What a peer does in silence: segment 0 for everything."""
    plan: Plan = job[1].plan
    if plan.identity["pair"] is None:
        pytest.skip("single texts have one segment only")
    encoder = load_encoder(plan)
    encoder.encoder.ends.segment[1] = encoder.encoder.ends.segment[0]

    with pytest.raises(ModelError, match="CANARY"):
        Canary(plan, encoder)


def test_an_encoder_that_drifts_is_found(job: tuple[Store, Any, Spec]) -> None:
    """A change far too small for any cosine: the last bits of one column of a table."""
    plan: Plan = job[1].plan
    encoder = load_encoder(plan)
    canary = Canary(plan, encoder)
    encoder.encoder.ends.token[:, 3] *= 1 + 1e-6

    with pytest.raises(ModelError, match="DRIFT"):
        for _ in range(8):
            canary.check()


def test_a_drifting_unit_is_not_committed(
    job: tuple[Store, Any, Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit that was encoded before the check stays out."""
    store, planned, spec = job

    def drifts(self: Canary) -> None:
        raise ModelError("DRIFT", "cpu", "an encoder gives other vectors")

    monkeypatch.setattr(Canary, "check", drifts)

    with pytest.raises(ModelError, match="DRIFT"):
        list(run_inline(planned.plan, planned.units, "stop", spec.run))

    assert [] == list(store.list("data"))


def test_a_tokenizer_that_transformers_takes_for_another_is_one_line(
    tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]
) -> None:
    """A Unigram tokenizer in a BERT folder whose tokenizer_config.json does not say so."""
    from tokenizers import Tokenizer, models, processors

    model = tmp_path / "model"
    shutil.copytree(tiny_bert, model)
    tokenizer = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("a", -1.0), ("b", -1.0)], 0)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <s>", pair="<s> $A <s> $B <s>", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").unlink()
    (model / "vocab.txt").unlink()
    shard = write_texts(tmp_path / "in" / "a.parquet", a=["a b"])
    spec = {
        "input": {"path": str(shard), "text": "a"},
        "model": {"name": str(model)},
        "output": {"path": str(tmp_path / "out")},
    }
    planned = make_plan(Spec.model_validate(spec), open_store(str(tmp_path / "out")))

    with pytest.raises(ModelError, match="REFERENCE"):
        make_canary(open_store(planned.plan.output), planned.plan)
