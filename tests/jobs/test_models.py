"""Models as their authors publish them, through `run`, against sentence-transformers itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from safetensors.torch import save_file

from embedmill.jobs.verify.output import verify
from embedmill.pipeline import load
from embedmill.pipeline.model.folder import open_model
from tests.conftest import write_tokenizer
from tests.jobs.commandline import Bench
from tests.tiny import ARCHITECTURES, save_model, save_sentence_folder, write_json

TEXTS = ["apple", "the OLD man and the Sea", "yellow sour fruit " * 60, "rain on the roof ."]
TRUNK, POOL, NORM = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "3_Normalize")
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def bench(tmp_path: Path, tiny_bert: Path, write_texts, capfd, monkeypatch) -> Bench:
    write_texts(tmp_path / "in" / "a.parquet", text=TEXTS)
    (tmp_path / "model").mkdir()
    return Bench(tmp_path, tmp_path / "model", capfd, monkeypatch)


def pooling(folder: Path, *modes: str, width: int = 48) -> None:
    flags = {mode: f"{mode}_tokens" for mode in ("max", "mean", "weightedmean")}
    named = {f"pooling_mode_{(flags | {'cls': 'cls_token'}).get(m, m)}": m in modes for m in MODES}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **named})


def dense(folder: Path, size_in: int, size_out: int, act: str, **more: Any) -> None:
    config = {"in_features": size_in, "out_features": size_out, "bias": True}
    config["activation_function"] = f"torch.nn.modules.{act}"
    write_json(folder / "config.json", config | more)
    random = torch.Generator().manual_seed(3)
    tensors = {"linear.weight": torch.randn(size_out, size_in, generator=random) / 5}
    if (config | more)["bias"]:
        tensors["linear.bias"] = torch.randn(size_out, generator=random)
    if more.get("use_residual") and size_in != size_out:
        tensors["residual.weight"] = torch.randn(size_out, size_in, generator=random) / 5
    save_file(tensors, folder / "model.safetensors")


def ours(bench: Bench, **fields: Any) -> np.ndarray:
    code, _, err = bench.run(**fields)
    assert code == 0, err
    table = ds.dataset(bench.folder / "out" / "data").to_table().sort_by("id")
    return np.stack(table["vector"].to_pylist())


def theirs(folder: Path, **options: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(TEXTS, show_progress_bar=False, **options)


def same(bench: Bench, **fields: Any) -> np.ndarray:
    """Asserts that both give the same vectors, in proportion to how long they are."""
    got, want = ours(bench, **fields), theirs(bench.model)
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-5 * max(1.0, np.abs(want).max())
    return got


@pytest.mark.parametrize("modes", [[m] for m in MODES] + [["mean", "cls", "max"]])
def test_every_pooling(bench: Bench, modes: list[str]):
    save_model(bench.model, "bert")
    pooling(bench.model, *modes)
    save_sentence_folder(bench.model, TRUNK, POOL)
    assert same(bench).shape == (len(TEXTS), 48 * len(modes))


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "mpnet", "deberta-v2", "modernbert"])
def test_other_architectures(bench: Bench, kind: str):
    save_model(bench.model, kind)
    pooling(bench.model, "mean")
    save_sentence_folder(bench.model, TRUNK, POOL, NORM)
    got = same(bench)
    assert np.abs(np.linalg.norm(got, axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("act", "more"),
    [
        ("activation.Tanh", {}),
        ("linear.Identity", {"bias": False}),
        ("activation.GELU", {}),
        ("activation.ReLU", {"use_residual": True}),
    ],
)
def test_a_dense_layer(bench: Bench, act: str, more: dict):
    save_model(bench.model, "bert")
    pooling(bench.model, "mean")
    dense(bench.model / "2_Dense", 48, 20, act, **more)
    save_sentence_folder(bench.model, TRUNK, POOL, ("Dense", "2_Dense"), NORM)
    assert same(bench).shape == (len(TEXTS), 20)
    found = verify(str(bench.folder / "out"), sample=4)
    assert found["ok"], found["problems"]
    assert found["sample"]["max_abs_diff"] < 1e-5


def test_two_dense_layers_and_a_pooling_of_ones_own(bench: Bench):
    save_model(bench.model, "bert")
    pooling(bench.model, "cls", "mean")
    dense(bench.model / "2_Dense", 96, 30, "activation.Tanh")
    dense(bench.model / "3_Dense", 30, 10, "linear.Identity")
    save_sentence_folder(bench.model, TRUNK, POOL, ("Dense", "2_Dense"), ("Dense", "3_Dense"))
    assert same(bench).shape == (len(TEXTS), 10)
    columns = [{"name": "vector", "pooling": "mean"}]
    plain = ours(bench, output__columns=columns, output__path=str(bench.folder / "other"))
    assert plain.shape == (len(TEXTS), 10)  # the first output is as it was
    assert open_model(str(bench.model)).dim == 48


def test_another_dense_weight_is_another_model(bench: Bench):
    save_model(bench.model, "bert")
    pooling(bench.model, "mean")
    dense(bench.model / "2_Dense", 48, 20, "activation.Tanh")
    save_sentence_folder(bench.model, TRUNK, POOL, ("Dense", "2_Dense"))
    before = open_model(str(bench.model)).digest
    dense(bench.model / "2_Dense", 48, 20, "activation.Tanh", use_residual=True)
    assert open_model(str(bench.model)).digest != before


def test_a_transformer_in_a_folder_of_its_own(bench: Bench):
    home = bench.model / "0_Transformer"
    home.mkdir()
    save_model(home, "bert")
    pooling(bench.model, "mean")
    save_sentence_folder(bench.model, ("Transformer", "0_Transformer"), POOL)
    write_json(home / "sentence_bert_config.json", {"max_seq_length": 20})
    same(bench)
    assert open_model(str(bench.model)).max_tokens == 20


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_a_folder_that_wants_lower_case(bench: Bench, kind: str):
    save_model(bench.model, kind)
    pooling(bench.model, "mean")
    config = {"max_seq_length": 100, "do_lower_case": True}
    save_sentence_folder(bench.model, TRUNK, POOL, sentence_bert_config=config)
    lowered = same(bench)
    if kind == "roberta":  # its tokenizer does not lower-case
        config["do_lower_case"] = False
        write_json(bench.model / "sentence_bert_config.json", config)
        assert np.abs(lowered - theirs(bench.model)).max() > 1e-3


def test_prompts(bench: Bench):
    save_model(bench.model, "bert")
    pooling(bench.model, "mean")
    prompts = {"query": "find : ", "passage": "a text : "}
    named = {"prompts": prompts, "default_prompt_name": "passage"}
    save_sentence_folder(bench.model, TRUNK, POOL, config_sentence_transformers=named)
    default = same(bench)
    asked = ours(bench, input__prompt="query", output__replace=True,
                 output__path=str(bench.folder / "out"))  # fmt: skip
    want = theirs(bench.model, prompt_name="query")
    assert np.abs(asked - want).max() < 1e-5 * max(1.0, np.abs(want).max())
    assert np.abs(default - want).max() > 1e-3


@pytest.mark.parametrize("named", [{"query": "find : ", "document": ""}, {}])
def test_an_empty_prompt_is_no_word(bench: Bench, named: dict[str, str]):
    """As its authors save one; and its usual names, where a folder has no prompts at all."""
    save_model(bench.model, "bert")
    pooling(bench.model, "mean")
    config = {"prompts": named, "default_prompt_name": None}
    save_sentence_folder(bench.model, TRUNK, POOL, config_sentence_transformers=config)
    got, want = ours(bench, input__prompt="document"), theirs(bench.model)
    assert np.abs(got - want).max() < 1e-5 * max(1.0, np.abs(want).max())


def test_positions_that_the_longest_of_a_batch_decides(bench: Bench, monkeypatch):
    """Its pack-mates, and the reference's, would move every vector."""
    factors = {"short_factor": [1.0] * 6, "long_factor": [4.0] * 6}
    longrope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    sizes = {"original_max_position_embeddings": 64, "rope_parameters": longrope}
    monkeypatch.setitem(ARCHITECTURES, "phi3", ARCHITECTURES["eurobert"] | sizes)
    save_model(bench.model, "phi3")
    pooling(bench.model, "mean")
    save_sentence_folder(bench.model, TRUNK, POOL)
    got, want = ours(bench), theirs(bench.model, batch_size=1)
    assert np.abs(got - want).max() < 1e-5 * max(1.0, np.abs(want).max())
    assert np.abs(got - theirs(bench.model)).max() > 1e-3, "beside the long text"
    assert verify(str(bench.folder / "out"), sample=4)["problems"] == []


def test_a_model_without_a_table_of_positions_has_the_length_that_it_says(bench: Bench):
    from transformers import BloomConfig, BloomModel

    sizes = {"hidden_size": 48, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = BloomConfig(vocab_size=len(write_tokenizer(bench.model)), pad_token_id=0, **sizes)
        BloomModel(config).eval().save_pretrained(bench.model)
    path = bench.model / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text()) | {"model_max_length": 600})
    pooling(bench.model, "mean")
    save_sentence_folder(bench.model, TRUNK, POOL)
    assert open_model(str(bench.model)).positions == 600
    same(bench)


def test_a_plain_folder_needs_a_pooling(bench: Bench):
    save_model(bench.model, "electra")
    columns = [{"name": "vector", "pooling": "mean"}]
    got = ours(bench, output__columns=columns)
    want = theirs(bench.model)  # it pools the mean by itself
    assert np.abs(got - want).max() < 1e-5 * max(1.0, np.abs(want).max())


@pytest.fixture
def hub(bench: Bench, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts the tiny model into a hub cache as a commit that `main` points to."""
    from huggingface_hub import constants

    cache = bench.folder / "hub"
    load._open.cache_clear()  # another test's cache has the same commit
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def put(commit: str) -> Path:
        home = cache / "models--org--name"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / "main").write_text(commit)
        return Path(shutil.copytree(tiny_bert, home / "snapshots" / commit))

    return put


def test_a_hub_id_is_one_commit(bench: Bench, hub: Callable[[str], Path]):
    hub(COMMIT)
    code, _, err = bench.run(model__name="org/name")
    assert code == 0
    assert [line for line in err.splitlines() if COMMIT in line and "model.revision" in line]
    assert err.count("model.revision") == 1
    (head,) = (bench.folder / "out" / "_embed" / "plan").glob("*.json")
    assert json.loads(head.read_text())["plan"]["model"]["revision"] == COMMIT
    other = "f" * 40
    (hub(other) / "config.json").unlink()  # the branch moves to a model that is broken
    _, _, err = bench.run(model__name="org/name", model__revision=COMMIT)
    assert "model.revision" not in err
    assert bench.run(model__name="org/name")[0] == 8


def test_workers_open_the_commit_of_the_plan(bench: Bench, hub: Callable[[str], Path]):
    from embedmill.pipeline.plan.plan import make_plan
    from embedmill.pipeline.store.output import open_store
    from embedmill.schemas.spec_file.load import load_spec

    first = hub(COMMIT)
    spec = load_spec(str(bench.spec(model__name="org/name")))
    planned = make_plan(spec, open_store(spec.output.path))
    (hub("f" * 40) / "config.json").unlink()
    assert load.model_of(planned.plan).root == first
