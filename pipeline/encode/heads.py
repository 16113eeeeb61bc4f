"""Heads on top of an encoder: a classifier over the first token, a masked LM over every token.

A head is read by the names that transformers gives to its tensors, whatever engine runs the trunk
below it. V is the vocabulary, N the labels of the classifier.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import layer_norm

from pipeline.encode.linear import Linear
from schemas.errors import ModelError

# model_type -> the classifier's linear layers over the first token, each with its activation
CLASSIFIERS = {
    "bert": (("bert.pooler.dense", "tanh"), ("classifier", "none")),
    "distilbert": (("pre_classifier", "relu"), ("classifier", "none")),
    "electra": (("classifier.dense", "gelu"), ("classifier.out_proj", "none")),
    "roberta": (("classifier.dense", "tanh"), ("classifier.out_proj", "none")),
    "xlm-roberta": (("classifier.dense", "tanh"), ("classifier.out_proj", "none")),
}


@dataclass(frozen=True, slots=True)
class Names:
    """A masked LM: dense, activation, LayerNorm, then the decoder, tied to the token table."""

    dense: str
    act: str  # the field of config.json that names it; one that is not there is the act itself
    norm: str
    decoder: str
    tied: str  # the decoder's weight where the file has none of its own
    biases: tuple[str, ...]  # where the decoder's bias may be


def _roberta(trunk: str) -> Names:
    table = f"{trunk}.embeddings.word_embeddings"
    return Names(
        "lm_head.dense", "gelu", "lm_head.layer_norm", "lm_head.decoder", table,
        ("lm_head.bias", "lm_head.decoder.bias"),
    )  # fmt: skip


MASKED_LMS = {
    "bert": Names(
        "cls.predictions.transform.dense", "hidden_act", "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder", "bert.embeddings.word_embeddings",
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    "distilbert": Names(
        "vocab_transform", "activation", "vocab_layer_norm", "vocab_projector",
        "distilbert.embeddings.word_embeddings", ("vocab_projector.bias",),
    ),
    "roberta": _roberta("roberta"),
    "xlm-roberta": _roberta("roberta"),
}  # fmt: skip


class Classifier:
    """First tokens' states -> logits, in fp32: one token of a sequence costs nothing."""

    def __init__(self, tensors: Tensors, kind: str, device: str) -> None:
        steps = tensors.known(CLASSIFIERS, kind, "scores")
        self.steps = [
            (Linear(*(t.to(device) for t in tensors.pair(name)), *_own(act)), act)
            for name, act in steps
        ]

    @torch.inference_mode()
    def __call__(self, cls_SD: torch.Tensor) -> torch.Tensor:
        """(S, D) fp32 -> (S, N) fp32."""
        states = cls_SD
        for linear, act in self.steps:
            states = torch.tanh(linear(states)) if act == "tanh" else linear(states)
        return states


class MaskedLM:
    """Every token's state -> a logit for each entry of the vocabulary; products in `dtype`."""

    def __init__(self, tensors: Tensors, kind: str, device: str, dtype: torch.dtype) -> None:
        names = tensors.known(MASKED_LMS, kind, "sparse")
        self.act = tensors.config.get(names.act, "gelu")
        self.eps = tensors.config.get("layer_norm_eps", 1e-12)
        self.dtype = dtype
        weight_VD = tensors.first((f"{names.decoder}.weight", f"{names.tied}.weight"))
        bias_V = tensors.first(names.biases)
        self.dense = Linear(*(t.to(device, dtype) for t in tensors.pair(names.dense)), self.act)
        self.norm = tuple(t.to(device) for t in tensors.pair(names.norm))
        self.decoder = Linear(weight_VD.to(device, dtype), bias_V.to(device, dtype))

    @torch.inference_mode()
    def __call__(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """(T, D) fp32 -> (T, V) fp32."""
        states_TD = self.dense(hidden_TD.to(self.dtype)).float()
        states_TD = layer_norm(states_TD, states_TD.shape[1:], *self.norm, self.eps)
        return self.decoder(states_TD.to(self.dtype)).float()


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads that a plan's columns ask for."""

    scores: Classifier | None = None
    token_logits: MaskedLM | None = None


def read_heads(folder: Path, sources: Iterable[str], device: str, dtype: torch.dtype) -> Heads:
    """The heads for columns of source scores and sparse; ModelError for one that is not there."""
    tensors = Tensors(folder)
    kind = str(tensors.config.get("model_type"))
    return Heads(
        scores=Classifier(tensors, kind, device) if "scores" in sources else None,
        token_logits=MaskedLM(tensors, kind, device, dtype) if "sparse" in sources else None,
    )


class Tensors:
    """The tensors of a folder by name, read when asked for, as fp32 copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_bytes())
        self.files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with self._open(path) as file:
                self.files |= dict.fromkeys(file.keys(), path)

    def known(self, table: dict[str, Any], kind: str, source: str) -> Any:
        """The row of a table for this kind of model."""
        if kind in table:
            return table[kind]
        what = f"source: {source} knows {', '.join(table)}, not {kind}"
        raise ModelError("MODEL_UNSUPPORTED", str(self.folder), what, "use such a model")

    def pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias. Old files call those of LayerNorm gamma and beta."""
        old = {"weight": "gamma", "bias": "beta"}
        first, second = (self.first((f"{name}.{n}", f"{name}.{old[n]}")) for n in old)
        return first, second

    def first(self, names: tuple[str, ...]) -> torch.Tensor:
        """The first of the named tensors that is there; ModelError if none is."""
        name = next((name for name in names if name in self.files), None)
        if name is None:
            do = "its head was not saved; use the model that was trained for this"
            raise ModelError("HEAD_MISSING", str(self.folder), f"has no tensor {names[0]}", do)
        with self._open(self.files[name]) as file:
            tensor = file.get_tensor(name).to(torch.float32, copy=True)
        if not torch.isfinite(tensor).all():
            what = f"{name} has NaN or infinity"
            raise ModelError("WEIGHTS_NOT_FINITE", str(self.folder), what, "fetch the model again")
        return tensor

    def _open(self, path: Path) -> Any:
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            what = f"not a whole safetensors file ({str(error).splitlines()[0][:120]})"
            raise ModelError("MODEL_CORRUPT", str(path), what, "fetch the model again") from None


def _own(act: str) -> tuple[str, ...]:
    """The activation, where the linear layer can apply it itself."""
    return () if act == "tanh" else (act,)
