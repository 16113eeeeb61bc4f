"""Weights are read whole and checked, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from embedmill.pipeline.encode.load import check_engine, load_encoder
from embedmill.schemas.errors import ModelError
from tests.pipeline.berts import error_of, load, make_pack, reference, save_bert


def rewrite(folder: Path, change) -> None:
    """Saves the tensors again after change(tensors)."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path)


def test_prefix_old_names_and_other_heads_are_understood(tmp_path):
    model, pack = save_bert(tmp_path), make_pack([5, 8, 8])

    def as_pretraining(tensors):
        old = {
            "bert."
            + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in tensors.items()
        }
        old["bert.embeddings.position_ids"] = torch.arange(512)
        return old | {"cls.predictions.bias": torch.full((99,), float("nan"))}

    rewrite(tmp_path, as_pretraining)
    assert (load(tmp_path).encode(pack).hidden_TD - reference(model, pack)[1]).abs().max() < 1e-5


def test_sharded_weights(tmp_path):
    model, pack = save_bert(tmp_path), make_pack([5, 8, 8])
    model.float().save_pretrained(tmp_path, max_shard_size="60KB")
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    hidden_TD = load(tmp_path).encode(pack).hidden_TD
    assert (hidden_TD - reference(model.double(), pack)[1]).abs().max() < 1e-5
    shards[0].unlink()
    assert error_of(tmp_path).code == "WEIGHTS_MISSING"


def test_an_index_that_leaves_the_folder_is_refused(tmp_path):
    save_bert(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path.parent / "elsewhere.safetensors")
    index = {"weight_map": {"embeddings.LayerNorm.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert error_of(tmp_path).code == "MODEL_CORRUPT"


def test_half_precision_files_are_read_as_fp32(tmp_path):
    model, pack = save_bert(tmp_path), make_pack([5, 8, 8])
    rewrite(tmp_path, lambda tensors: {name: t.half() for name, t in tensors.items()})
    got = load(tmp_path).encode(pack).hidden_TD
    assert (got - reference(model.half().double(), pack)[1]).abs().max() < 1e-5


def test_without_a_pooler_only_the_pooler_fails(tmp_path):
    save_bert(tmp_path)
    rewrite(tmp_path, lambda ts: {n: t for n, t in ts.items() if not n.startswith("pooler.")})
    encoder = load(tmp_path)
    hidden_TD = encoder.encode(make_pack([5])).hidden_TD
    with pytest.raises(ModelError, match="POOLER_MISSING"):
        encoder.pooler(hidden_TD[:1])


def test_a_missing_tensor(tmp_path):
    save_bert(tmp_path)

    def drop(tensors):
        del tensors["encoder.layer.1.output.dense.bias"]

    rewrite(tmp_path, drop)
    error = error_of(tmp_path)
    assert error.code == "WEIGHTS_MISSING"
    assert "encoder.layer.1.output.dense.bias" in error.what


def test_half_a_pooler(tmp_path):
    save_bert(tmp_path)
    rewrite(tmp_path, lambda ts: {n: t for n, t in ts.items() if n != "pooler.dense.bias"})
    assert error_of(tmp_path).code == "WEIGHTS_MISSING"


def test_a_wrong_shape(tmp_path):
    save_bert(tmp_path)
    rewrite(tmp_path, lambda ts: ts | {"encoder.layer.0.output.dense.weight": torch.ones(48, 81)})
    assert error_of(tmp_path).code == "WEIGHTS_SHAPE"


def test_a_layer_that_the_config_does_not_know(tmp_path):
    save_bert(tmp_path)
    rewrite(tmp_path, lambda ts: ts | {"encoder.layer.2.output.dense.bias": torch.ones(48)})
    assert error_of(tmp_path).code == "WEIGHTS_UNEXPECTED"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_weight(tmp_path, value):
    save_bert(tmp_path)

    def poison(tensors):
        tensors["embeddings.word_embeddings.weight"][50, 3] = value

    rewrite(tmp_path, poison)
    error = error_of(tmp_path)
    assert error.code == "WEIGHTS_NOT_FINITE"
    assert "word_embeddings" in error.what


def test_quantized_weights(tmp_path):
    save_bert(tmp_path)
    whole = torch.ones(48, 48, dtype=torch.int8)
    rewrite(tmp_path, lambda ts: ts | {"encoder.layer.0.attention.output.dense.weight": whole})
    assert error_of(tmp_path).code == "MODEL_UNSUPPORTED"


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:7],
        lambda raw: raw[:500],
        lambda raw: raw[:-4],
        lambda raw: bytes(2000),
        lambda raw: b"\xff" * 2000,
        lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    ],
)
def test_a_damaged_weights_file(tmp_path, damage):
    save_bert(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    error = error_of(tmp_path)
    assert error.code == "MODEL_CORRUPT"
    assert error.exit_code == 8
    assert ("LFS" in error.what) == (b"git-lfs" in path.read_bytes())


def test_pickled_weights_are_never_loaded(tmp_path):
    save_bert(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    error = error_of(tmp_path)
    assert error.code == "MODEL_MISSING"
    assert "pickled weights are never loaded" in error.do


def test_no_weights_no_config_no_folder(tmp_path):
    save_bert(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert error_of(tmp_path).code == "MODEL_MISSING"  # what no file names is not the model's
    (tmp_path / "config.json").unlink()
    assert error_of(tmp_path).code == "MODEL_MISSING"
    assert error_of(tmp_path / "nowhere").code == "MODEL_MISSING"


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_a_damaged_config(tmp_path, text):
    save_bert(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert error_of(tmp_path).code == "MODEL_CORRUPT"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("model_type", "robert", "MODEL_UNSUPPORTED"),
        ("model_type", None, "MODEL_UNSUPPORTED"),
        ("position_embedding_type", "relative_key", "MODEL_UNSUPPORTED"),
        ("is_decoder", True, "MODEL_UNSUPPORTED"),
        ("hidden_act", "silu", "MODEL_UNSUPPORTED"),
        ("hidden_size", "384", "MODEL_CORRUPT"),
        ("num_hidden_layers", 0, "MODEL_CORRUPT"),
        ("num_attention_heads", 5, "MODEL_CORRUPT"),
        ("layer_norm_eps", "small", "MODEL_CORRUPT"),
        ("vocab_size", 98, "WEIGHTS_SHAPE"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, field, value, code):
    save_bert(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    error = error_of(tmp_path)
    assert error.code == code
    assert code != "MODEL_UNSUPPORTED" or str(value) in error.what or value in (True, None)


def test_unknown_devices_and_precisions(tmp_path):
    check_engine(tmp_path, "cuda:1", "fast")
    with pytest.raises(ModelError, match="DEVICE_UNSUPPORTED"):
        check_engine(tmp_path, "abacus", "exact")
    with pytest.raises(ModelError, match="PRECISION_UNSUPPORTED"):
        check_engine(tmp_path, "cuda", "int8")
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(ModelError, match="PRECISION_UNSUPPORTED.*BERT and its kin"):
        check_engine(tmp_path, "cpu", "int8")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match="PRECISION_UNSUPPORTED"):
        load_encoder(tmp_path, device="cpu", precision="int3", threads=1)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="DEVICE_MISSING"):
            load_encoder(tmp_path, device="cuda", precision="exact", threads=1)


# the real model and what the reference implementation gave
