"""An encoder that is not the model of the plan never starts; one that drifts never commits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embedmill.pipeline.canary import TEXTS, Canary, canary_name, make_canary
from embedmill.pipeline.encode.reference import Reference
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


@pytest.fixture
def asked(
    job: tuple[Store, Any, Spec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., bool]:
    """Makes the canary of another output; whether the reference was asked. An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    means, calls = Reference.means, []
    monkeypatch.setattr(Reference, "means", lambda *given: calls.append(given) or means(*given))

    def other(name: str, **model: Any) -> bool:
        calls.clear()
        spec = job[2].model_copy(update={"model": job[2].model.model_copy(update=model)})
        store = open_store(str(tmp_path / name))
        plan = make_plan(spec, store).plan
        make_canary(store, plan)
        if not model:
            assert np.allclose(_answers(store, plan), _answers(job[0], job[1].plan), atol=1e-5)
        return bool(calls)

    return other


def _answers(store: Store, plan: Plan) -> list[list[float]]:
    data = pa.py_buffer(store.read(canary_name(plan)))
    table = pa.ipc.open_file(data).read_all()
    return [row for column in ("input", "hidden") for row in table[column].to_pylist()]


def test_another_output_asks_only_if_something_else_decides(asked: Callable[..., bool]) -> None:
    assert asked("first")
    assert not asked("second")
    for n, change in enumerate(
        [{"max_tokens": 40}, {"special_tokens_in_text": "parse"}, {"truncation": "only_first"}]
    ):
        assert asked(f"changed-{n}", **change), change
        assert not asked(f"changed-{n}-again", **change), change


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-9] + b"\1" * 9,
                                    lambda data: b""])  # fmt: skip
def test_kept_answers_that_are_damaged_are_asked_for_again(
    asked: Callable[..., bool], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    assert asked("first")
    (kept,) = (tmp_path / "cache" / "embedmill" / "reference").iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert asked("second")
    assert not asked("third")


def test_a_home_that_takes_no_files_keeps_no_answers(
    asked: Callable[..., bool], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert asked("first")
    assert asked("second")


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
