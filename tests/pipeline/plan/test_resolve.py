"""What the spec leaves open is what the model and the machine say; what they cannot is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedmill.pipeline.model.folder import open_model
from embedmill.pipeline.plan.resolve import (
    identity,
    resolve_columns,
    resolve_model,
    resolve_settings,
)
from embedmill.schemas.errors import ModelError, SpecError
from embedmill.schemas.spec import Spec
from tests.pipeline.conftest import Job


@pytest.fixture
def model(tmp_path: Path, tiny_bert: Path) -> Path:
    """A copy of the model that a test may change."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def columns_of(spec: Spec):
    return resolve_columns(spec, open_model(spec.model.name))


def test_auto_is_what_the_models_folder_says(job: Job, model):
    (column,) = columns_of(job.spec())
    assert (column.pooling, column.normalize, column.dim) == ("mean", False, 32)
    modules = json.loads((model / "modules.json").read_text())
    modules.append(
        {
            "idx": 2,
            "name": "2",
            "path": "2_Normalize",
            "type": "sentence_transformers.models.Normalize",
        }
    )
    (model / "modules.json").write_text(json.dumps(modules))
    (column,) = columns_of(job.spec(model={"name": str(model)}))
    assert column.normalize


def test_a_model_that_does_not_say_how_to_pool_asks_for_it(job: Job, model):
    (model / "modules.json").unlink()
    sections = {"model": {"name": str(model)}}
    with pytest.raises(ModelError, match=r"POOLING_UNKNOWN.*set pooling"):
        columns_of(job.spec(**sections))
    asked = {"columns": [{"name": "vector", "pooling": "cls"}]}
    assert columns_of(job.spec(**sections, output=asked))[0].pooling == "cls"


def test_a_column_that_the_model_cannot_give_is_a_spec_error(job: Job):
    with pytest.raises(SpecError) as caught:
        columns_of(job.spec(output={"columns": [{"name": "vector", "dim": 33}]}))
    assert caught.value.code == "DIM"


def test_max_tokens_above_the_positions_is_refused(job: Job):
    with pytest.raises(ModelError, match=r"model.max_tokens: 129 is above its 128 positions"):
        resolve_model(spec := job.spec(model={"max_tokens": 129}), open_model(spec.model.name))


def test_max_tokens_is_the_models_own_and_never_above_its_positions(job: Job, model):
    for own, expected in ((64, 64), (512, 128), (None, 128)):
        (model / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": own}))
        spec = job.spec(model={"name": str(model)})
        assert expected == resolve_model(spec, open_model(str(model)))["max_tokens"]


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, "doc: "), ("query", "ask: "), ("mine: ", "mine: "), ("", "")]
)
def test_a_prompt_is_the_models_by_name_or_a_literal(job: Job, model, asked, expected):
    prompts = {"prompts": {"query": "ask: ", "doc": "doc: "}, "default_prompt_name": "doc"}
    (model / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    spec = job.spec(input={"prompt": asked}, model={"name": str(model)})
    assert expected == resolve_model(spec, open_model(str(model)))["prompt"]


def test_a_unit_of_wide_columns_is_smaller_than_its_cap_in_rows(job: Job):
    columns = [{"name": f"v{n}"} for n in range(200)]
    spec = job.spec(output={"columns": columns}, run={"unit_rows": 10**6})
    settings = resolve_settings(spec, "cpu", columns_of(spec))
    assert settings.unit_rows * 200 * 32 * 4 <= 256 << 20


SAME = [{"input": {"on_null": "fail"}}, {"input": {"id": "doc"}}, {"run": {"unit_rows": 3}}]
OTHER = [
    {"input": {"text": "body"}}, {"input": {"pair": "b"}}, {"input": {"prompt": "p: "}},
    {"model": {"truncation": "only_first"}}, {"model": {"long_text": "reject"}},
    {"model": {"special_tokens_in_text": "parse"}}, {"model": {"max_tokens": 64}},
    {"output": {"columns": [{"name": "vector", "normalize": True}]}},
    {"output": {"columns": [{"name": "vector", "dtype": "float16"}]}},
]  # fmt: skip


@pytest.mark.parametrize("change", [*SAME, *OTHER], ids=str)
def test_the_identity_is_all_that_moves_a_vector_and_nothing_else(job: Job, change):
    def identity_of(spec: Spec) -> dict:
        folder = open_model(spec.model.name)
        return identity(spec, resolve_model(spec, folder), resolve_columns(spec, folder), "exact")

    same = identity_of(job.spec()) == identity_of(job.spec(**change))
    assert same == (change in SAME)
