"""Heads on hidden states of transformers give transformers' logits, from the model's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from embedmill.pipeline.contracts import Hidden
from embedmill.pipeline.encode.heads.ours import CLASSIFIERS, MASKED_LMS
from embedmill.pipeline.encode.load import load_heads
from embedmill.pipeline.model.folder import open_model
from embedmill.schemas.errors import ModelError

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 40, "embedding_size": 16,
    "initializer_range": 0.3,
}  # fmt: skip
DISTIL = {
    "vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32,
    "initializer_range": 0.3,
}  # fmt: skip


def made(kind: str, auto: str, folder: Path, **more) -> torch.nn.Module:
    """A random model of a family, saved."""
    sizes = (DISTIL if kind == "distilbert" else SIZES) | {"pad_token_id": 0}
    if kind == "modernbert":
        sizes |= dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2)
    config = transformers.AutoConfig.for_model(kind, **sizes, **more)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = getattr(transformers, auto).from_config(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts them at 0, where a lost bias hides
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def states_and_logits(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 50, (1, 9), generator=torch.Generator().manual_seed(2))
    output = model(input_ids=ids, output_hidden_states=True)
    return output.hidden_states[-1][0], output.logits[0]


def read_scores(folder: Path, states_TD: torch.Tensor) -> torch.Tensor:
    """The logits of one sequence."""
    heads, cu_S1 = load_heads(folder, {"scores"}, device="cpu", precision="exact"), np.array([0, 9])
    assert heads.token_logits is None
    return heads.scores(Hidden(states_TD, states_TD, torch.from_numpy(cu_S1)), cu_S1)


def read_logits(folder: Path, states_TD: torch.Tensor) -> torch.Tensor:
    return load_heads(folder, {"sparse"}, device="cpu", precision="exact").token_logits(states_TD)


@pytest.mark.parametrize("kind", [*CLASSIFIERS, "ernie", "modernbert"])
@pytest.mark.parametrize("labels", [1, 3])
def test_a_classifier(tmp_path: Path, kind: str, labels: int) -> None:
    auto = "AutoModelForSequenceClassification"
    states_TD, logits = states_and_logits(made(kind, auto, tmp_path, num_labels=labels))
    assert (read_scores(tmp_path, states_TD)[0] - logits).abs().max() < 1e-5


def test_a_classifier_that_pools_the_mean(tmp_path: Path) -> None:
    auto, more = "AutoModelForSequenceClassification", {"classifier_pooling": "mean"}
    states_TD, logits = states_and_logits(made("modernbert", auto, tmp_path, **more))
    assert (read_scores(tmp_path, states_TD)[0] - logits).abs().max() < 1e-5


@pytest.mark.parametrize("kind", [*MASKED_LMS, "ernie", "modernbert"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_masked_lm(tmp_path: Path, kind: str, tied: bool) -> None:
    model = made(kind, "AutoModelForMaskedLM", tmp_path, tie_word_embeddings=tied)
    states_TD, logits_TV = states_and_logits(model)
    assert (read_logits(tmp_path, states_TD) - logits_TV).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert", "mpnet"])
def test_a_decoder_in_the_file_is_taken_whatever_the_config_says_of_ties(
    tmp_path: Path, kind: str
) -> None:
    """transformers does so where the file has both, and they differ."""
    made(kind, "AutoModelForMaskedLM", tmp_path, tie_word_embeddings=False)
    change_config(tmp_path, tie_word_embeddings=True)
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    states_TD, logits_TV = states_and_logits(model)
    assert (read_logits(tmp_path, states_TD) - logits_TV).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_an_untied_decoder_that_is_not_there_is_no_table_of_tokens(
    tmp_path: Path, kind: str
) -> None:
    made(kind, "AutoModelForMaskedLM", tmp_path)
    change_config(tmp_path, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"HEAD_MISSING.*decoder\.weight"):
        read_logits(tmp_path, torch.zeros(9, 16))


@pytest.mark.parametrize("sharded", [False, True])
def test_only_the_weight_files_that_the_folder_names_are_read(
    tmp_path: Path, sharded: bool
) -> None:
    model = made("bert", "AutoModelForSequenceClassification", tmp_path / "model", num_labels=2)
    home = tmp_path / "model"
    states_TD, logits = states_and_logits(model)
    tensors = load_file(home / "model.safetensors")
    if sharded:
        (home / "model.safetensors").unlink()
        model.save_pretrained(home, max_shard_size="8KB")
        assert len(list(home.glob("model-*.safetensors"))) > 1
    digest = open_model(str(home)).digest
    other = {name: tensor + 1 for name, tensor in tensors.items()}
    for name in ("adapter.safetensors", "zz.safetensors"):
        save_file(other, home / name)
    assert (read_scores(home, states_TD)[0] - logits).abs().max() < 1e-5
    assert open_model(str(home)).digest == digest
    assert open_model(str(home)).parameters == sum(t.numel() for t in tensors.values())


@pytest.mark.parametrize("kind", ["bert", "albert"])
@pytest.mark.parametrize("source", ["scores", "sparse"])
def test_a_missing_head_is_said_in_one_line(tmp_path: Path, kind: str, source: str) -> None:
    made(kind, "AutoModel", tmp_path)
    with pytest.raises(ModelError, match="HEAD_MISSING.*has no tensor"):
        load_heads(tmp_path, {source}, device="cpu", precision="exact")


@pytest.mark.parametrize(
    ("kind", "name"), [("bert", "classifier.bias"), ("modernbert", "head.dense.weight")]
)
def test_a_head_that_is_not_finite_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    made(kind, "AutoModelForSequenceClassification", tmp_path, num_labels=1)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors[name] *= float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"WEIGHTS_NOT_FINITE.*{name}"):
        load_heads(tmp_path, {"scores"}, device="cpu", precision="exact")


def test_a_head_that_looks_at_more_than_the_last_states_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is believed of a class: its logits behind our states are compared with its own."""
    made("modernbert", "AutoModelForMaskedLM", tmp_path)
    forward = transformers.ModernBertForMaskedLM.forward

    def looks_at_ids(self, input_ids=None, **given):
        out = forward(self, input_ids=input_ids, **given)
        return out if input_ids is None else type(out)(logits=out.logits + input_ids[..., None])

    monkeypatch.setattr(transformers.ModernBertForMaskedLM, "forward", looks_at_ids)
    with pytest.raises(ModelError, match="MODEL_UNSUPPORTED.*ModernBertForMaskedLM"):
        read_logits(tmp_path, torch.zeros(9, 16))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
