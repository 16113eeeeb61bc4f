"""A model that cannot be used says why in one line, with exit code 8, before a row is encoded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from embedmill.pipeline import load
from embedmill.pipeline.encode import load as engines
from embedmill.pipeline.model.folder import open_model
from tests.jobs.commandline import Bench
from tests.tiny import save_model, save_sentence_folder, write_json

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.fixture
def bench(tmp_path: Path, tiny_bert: Path, write_texts, capfd, monkeypatch) -> Bench:
    """A job whose model a test may damage."""
    write_texts(tmp_path / "in" / "a.parquet", text=["apple", "bee"], second=["one", "two"])
    return Bench(tmp_path, Path(shutil.copytree(tiny_bert, tmp_path / "model")), capfd, monkeypatch)


def change(path: Path, **fields: object) -> None:
    """Sets fields of a JSON file; None removes one."""
    value = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def rewrite(folder: Path, edit: Callable[[dict], dict]) -> None:
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path)


def test_only_pickled_weights(bench: Bench):
    (bench.model / "model.safetensors").rename(bench.model / "pytorch_model.bin")
    bench.refuses(8, "MODEL_MISSING", "no model.safetensors", "pickled weights are never loaded")


def test_an_architecture_that_brings_its_code(bench: Bench):
    code = {"AutoConfig": "configuration_mine.Mine", "AutoModel": "modeling_mine.Mine"}
    change(bench.model / "config.json", model_type="mine", auto_map=code)
    marker = bench.folder / "ran"
    for name in ("configuration_mine", "modeling_mine"):
        program = f"open({str(marker)!r}, 'w')\nclass Mine: pass\n"
        (bench.model / f"{name}.py").write_text(program)
    bench.refuses(8, "MODEL_UNSUPPORTED", "never run")
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["my_code.Transformer", "sentence_transformers.models.LSTM"])
def test_a_module_that_is_not_known(bench: Bench, kind: str):
    modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
    write_json(bench.model / "modules.json", modules)
    bench.refuses(8, "MODEL_UNSUPPORTED", "modules.json", kind)


def test_modules_in_an_order_that_makes_no_sense(bench: Bench):
    order = [("Transformer", ""), ("Normalize", "2_N"), ("Pooling", "1_Pooling")]
    save_sentence_folder(bench.model, *order)
    bench.refuses(8, "MODEL_UNSUPPORTED", "Pooling")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda raw: raw[:-9], "whole"),
        (lambda raw: b"", "whole"),
        (lambda raw: LFS, "LFS"),
        (lambda raw: (2**63 - 1).to_bytes(8, "little") + raw[8:], "whole"),
    ],
)
def test_a_damaged_weights_file(bench: Bench, damage, word: str):
    path = bench.model / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    bench.refuses(8, "MODEL_CORRUPT", "model.safetensors", word)
    code, _, err = bench.run(command="plan")
    assert (code, err.count("\n")) == (8, 1)


def test_a_flipped_bit_is_another_model(bench: Bench):
    before = open_model(str(bench.model)).digest
    assert bench.run()[0] == 0
    path = bench.model / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1000] ^= 1
    path.write_bytes(raw)
    assert open_model(str(bench.model)).digest != before
    code, _, err = bench.run()
    assert code == 6
    assert "model" in err


def test_a_bit_that_flips_after_the_plan(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """What workers load is the planned model to the last bit, or nothing."""

    def flipped(name: str, revision: str | None) -> object:
        path = bench.model / "model.safetensors"
        raw = bytearray(path.read_bytes())
        raw[-1000] ^= 1
        path.write_bytes(raw)
        return open_model(name, revision)

    monkeypatch.setattr(load, "open_model", flipped)
    bench.refuses(8, "MODEL_DIFFERS", "not the model of the plan")


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_weights_that_are_not_finite(bench: Bench, kind: str):
    save_model(bench.model, kind)
    name = "embeddings.word_embeddings.weight"

    def poison(tensors: dict) -> dict:
        tensors[name][3, 2] = float("nan")
        return tensors

    rewrite(bench.model, poison)
    bench.refuses(8, "WEIGHTS_NOT_FINITE", name)


@pytest.mark.parametrize("kind", ["bert", "ernie"])
def test_names_with_a_wrong_prefix(bench: Bench, kind: str):
    save_model(bench.model, kind)
    rewrite(bench.model, lambda tensors: {f"wrong.{name}": t for name, t in tensors.items()})
    bench.refuses(8, "WEIGHTS_MISSING", "tensors are missing")


@pytest.mark.parametrize("kind", ["bert", "ernie"])
@pytest.mark.parametrize(("layers", "code"), [(3, "WEIGHTS_MISSING"), (1, "WEIGHTS_UNEXPECTED")])
def test_another_number_of_layers(bench: Bench, kind: str, layers: int, code: str):
    save_model(bench.model, kind)
    change(bench.model / "config.json", num_hidden_layers=layers)
    bench.refuses(8, code, "encoder.layer.")


@pytest.mark.parametrize("kind", ["bert", "ernie"])
@pytest.mark.parametrize(
    ("field", "size"), [("intermediate_size", 96), ("hidden_size", 96), ("vocab_size", 999)]
)
def test_another_size(bench: Bench, kind: str, field: str, size: int):
    save_model(bench.model, kind)
    change(bench.model / "config.json", **{field: size})
    bench.refuses(8, "WEIGHTS_SHAPE", "config.json says")


def test_the_tokenizer_of_a_larger_model(bench: Bench):
    change(bench.model / "config.json", vocab_size=90)
    rewrite(
        bench.model,
        lambda ts: {n: t[:90].clone() if n.endswith("word_embeddings.weight") else t
                    for n, t in ts.items()},
    )  # fmt: skip
    bench.refuses(8, "TOKENIZER_MISMATCH", "90 rows")


def test_no_tokenizer(bench: Bench):
    (bench.model / "tokenizer.json").unlink()
    bench.refuses(8, "TOKENIZER_MISSING", "tokenizer.json")


@pytest.mark.parametrize(("kind", "most"), [("bert", 130), ("roberta", 128)])
def test_more_tokens_than_positions(bench: Bench, kind: str, most: int):
    save_model(bench.model, kind)
    columns = [{"pooling": "mean"}]
    words = "model.max_tokens", f"above its {most} positions"
    bench.refuses(8, "MAX_TOKENS", *words, model__max_tokens=most + 1, output__columns=columns)


def test_more_segments_than_the_model_has(bench: Bench):
    save_model(bench.model, "bert", type_vocab_size=1)
    bench.refuses(8, "TOKENIZER_MISMATCH", "segment 1", "knows 1", input__pair="second")
    assert bench.run()[0] == 0  # without a second text there is no second segment


def test_no_config(bench: Bench):
    (bench.model / "config.json").unlink()
    bench.refuses(8, "MODEL_MISSING", "config.json", "is this a model folder?")


@pytest.mark.parametrize(
    "name", ["./nowhere", "/no/such/folder", "org/name/more", "pkg://nothing", "~nobody/model"]
)
def test_no_model(bench: Bench, name: str):
    bench.refuses(8, "MODEL_MISSING", name.rpartition("/")[2], model__name=name)


@pytest.mark.parametrize("name", ["nobody/nothing", "not a name"])
def test_a_hub_id_that_is_not_in_the_cache(bench: Bench, name: str):
    bench.refuses(8, "MODEL_MISSING", name, "hub", model__name=name)


def test_a_pooling_that_must_be_chosen(bench: Bench):
    (bench.model / "modules.json").unlink()
    bench.refuses(8, "POOLING_UNKNOWN", "set pooling")
    assert bench.run(output__columns=[{"name": "vector", "pooling": "cls"}])[0] == 0


def test_a_model_larger_than_the_machine(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(load, "available_memory", lambda: 1000.0)
    bench.refuses(8, "MEMORY", "parameters need")


def test_a_model_larger_than_the_gpu(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "device_memory", lambda device: 1000.0)
    bench.refuses(8, "MEMORY", "parameters need")


@pytest.mark.parametrize("path", ["../other", "trunk", "a_b/c_d"])
def test_a_module_in_a_folder_that_no_digest_covers(bench: Bench, path: str):
    save_sentence_folder(bench.model, ("Transformer", path), ("Pooling", "1_Pooling"))
    bench.refuses(8, "MODEL_UNSUPPORTED", "modules.json", path)


def test_relative_positions_that_nothing_here_computes(bench: Bench):
    save_model(bench.model, "ernie")
    change(bench.model / "config.json", position_embedding_type="relative_key")
    bench.refuses(8, "MODEL_UNSUPPORTED", "relative_key")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sentence_bert_config", []),
        ("sentence_bert_config", {"max_seq_length": "long"}),
        ("sentence_bert_config", {"max_seq_length": -1}),
        ("config_sentence_transformers", [1]),
        ("config_sentence_transformers", {"prompts": ["a"]}),
        ("config_sentence_transformers", {"prompts": {"a": 5}}),
        ("config_sentence_transformers", {"default_prompt_name": ["x"]}),
        ("config_sentence_transformers", {"prompts": {"a": "b"}, "default_prompt_name": "c"}),
        ("1_Pooling/config", [1]),
        ("1_Pooling/config", {"pooling_mode": 5}),
        ("1_Pooling/config", {"pooling_mode": [["mean"]]}),
        ("tokenizer_config", [1]),
        ("tokenizer_config", {"model_max_length": "many"}),
        ("config", {"max_position_embeddings": [130]}),
        ("config", {"type_vocab_size": "two"}),
        ("config", {"intermediate_size": "80"}),
        ("config", {"model_type": ["bert"]}),
        ("config", {"id2label": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value),
)
def test_a_value_of_another_kind(bench: Bench, name: str, value: object):
    path = bench.model / f"{name}.json"
    if isinstance(value, dict) and path.exists():
        value = json.loads(path.read_text()) | value
    write_json(path, value)
    bench.refuses(8, "CONFIG_INVALID", str(bench.model))


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("tokenizer_config", {"truncation_side": "left"}, "on the left"),
        ("sentence_bert_config", {"tokenizer_args": {"model_max_length": 20}}, "model_max_length"),
        (
            "sentence_bert_config",
            {"processing_kwargs": {"text": {"max_length": 16}}},
            "max_length in processing_kwargs",
        ),
        ("tokenizer_config", {"added_tokens_decoder": {"7": {"content": "apple"}}}, "'apple'"),
    ],
)
def test_a_setting_that_would_be_lost_is_refused(bench: Bench, name: str, value: dict, word: str):
    path = bench.model / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, before | value)
    bench.refuses(8, "UNSUPPORTED", f"{name}.json", word)


def test_a_prompt_that_spells_a_special_token(bench: Bench):
    """Who wrote it means the token, and it would be read as text."""
    bench.refuses(2, "input.prompt", "[MASK]", "parse", input__prompt="[MASK] find: ")
    parsed = {"input__prompt": "[MASK] find: ", "model__special_tokens_in_text": "parse"}
    assert bench.run(**parsed)[0] == 0


def test_an_encoder_with_a_decoder(bench: Bench):
    from transformers import T5Config, T5Model

    with torch.random.fork_rng():
        T5Model(
            T5Config(vocab_size=400, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
        ).save_pretrained(bench.model)
    bench.refuses(8, "MODEL_UNSUPPORTED", "decoder")
