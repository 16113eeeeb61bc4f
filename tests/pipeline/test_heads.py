"""The heads of every family, on hidden states of transformers, give transformers' logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.encode.heads import CLASSIFIERS, MASKED_LMS, read_heads
from schemas.errors import ModelError

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
    sizes = DISTIL if kind == "distilbert" else SIZES
    config = transformers.AutoConfig.for_model(kind, **sizes, **more)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = getattr(transformers, auto).from_config(config).eval()
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def states_and_logits(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 50, (1, 9), generator=torch.Generator().manual_seed(2))
    output = model(input_ids=ids, output_hidden_states=True)
    return output.hidden_states[-1][0], output.logits[0]


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("labels", [1, 3])
def test_a_classifier(tmp_path: Path, kind: str, labels: int) -> None:
    auto = "AutoModelForSequenceClassification"
    states_TD, logits = states_and_logits(made(kind, auto, tmp_path, num_labels=labels))
    heads = read_heads(tmp_path, {"scores"}, "cpu", torch.float32)
    assert (heads.scores(states_TD[:1])[0] - logits).abs().max() < 1e-5
    assert heads.token_logits is None


@pytest.mark.parametrize("kind", MASKED_LMS)
def test_a_masked_lm(tmp_path: Path, kind: str) -> None:
    states_TD, logits_TV = states_and_logits(made(kind, "AutoModelForMaskedLM", tmp_path))
    heads = read_heads(tmp_path, {"sparse"}, "cpu", torch.float32)
    assert (heads.token_logits(states_TD) - logits_TV).abs().max() < 1e-5


@pytest.mark.parametrize("source", ["scores", "sparse"])
def test_what_is_missing_or_unknown_is_said_in_one_line(tmp_path: Path, source: str) -> None:
    made("bert", "AutoModel", tmp_path / "trunk")
    with pytest.raises(ModelError, match="HEAD_MISSING.*has no tensor"):
        read_heads(tmp_path / "trunk", {source}, "cpu", torch.float32)
    made("albert", "AutoModelForMaskedLM", tmp_path / "other")
    with pytest.raises(ModelError, match="MODEL_UNSUPPORTED.*not albert"):
        read_heads(tmp_path / "other", {source}, "cpu", torch.float32)


def test_a_head_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    made("bert", "AutoModelForSequenceClassification", tmp_path, num_labels=1)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.bias"] = torch.full((1,), float("nan"))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="WEIGHTS_NOT_FINITE.*classifier.bias"):
        read_heads(tmp_path, {"scores"}, "cpu", torch.float32)
