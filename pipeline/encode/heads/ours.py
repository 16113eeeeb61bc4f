"""Heads on top of an encoder: a classifier over a sequence, a masked LM over every token.

Those of our own families are here, read by the names that transformers gives to their tensors; of
any other architecture they are transformers' own, in auto.py. V is the vocabulary, N the
labels of a classifier.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import layer_norm

from embedmill.pipeline.encode.linear import Linear
from embedmill.pipeline.encode.weights import no_head
from embedmill.pipeline.model.architectures import FAMILIES
from embedmill.pipeline.model.sentence_folder import weight_files
from embedmill.schemas.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from embedmill.pipeline.contracts import Hidden

OF_ROBERTA = (("classifier.dense", "tanh"), ("classifier.out_proj", "none"))
# family -> the classifier's linear layers over the first token, each with its activation
CLASSIFIERS = {
    "bert": (("bert.pooler.dense", "tanh"), ("classifier", "none")),
    "camembert": OF_ROBERTA,
    "distilbert": (("pre_classifier", "relu"), ("classifier", "none")),
    "electra": (("classifier.dense", "gelu"), ("classifier.out_proj", "none")),
    "mpnet": OF_ROBERTA,
    "roberta": OF_ROBERTA,
    "xlm-roberta": OF_ROBERTA,
}


@dataclass(frozen=True, slots=True)
class Names:
    """A masked LM: dense, activation, LayerNorm, then the decoder, tied to the token table."""

    dense: str
    norm: str
    decoder: str
    bias: str = ""  # where the decoder's is, if it has none under its own name
    act: str = "gelu"  # or the field of config.json that names it


LM_OF_ROBERTA = Names("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias")
MASKED_LMS = {
    "bert": Names(
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder", "cls.predictions.bias", "hidden_act",
    ),
    "camembert": LM_OF_ROBERTA,
    "distilbert": Names(
        "vocab_transform", "vocab_layer_norm", "vocab_projector", act="activation"
    ),
    "electra": Names(
        "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"
    ),
    "mpnet": LM_OF_ROBERTA,
    "roberta": LM_OF_ROBERTA,
    "xlm-roberta": LM_OF_ROBERTA,
}  # fmt: skip


class Classifier:
    """First tokens' states -> logits, in fp32: one token of a sequence costs nothing."""

    def __init__(self, tensors: Tensors, kind: str, device: str) -> None:
        self.steps = [
            (Linear(*(t.to(device) for t in tensors.pair(name)), *_own(act)), act)
            for name, act in CLASSIFIERS[kind]
        ]

    @torch.inference_mode()
    def __call__(self, states: Hidden, cu_S1: np.ndarray) -> torch.Tensor:
        """The states of a pack -> (S, N) fp32."""
        states_SD = states.hidden_TD[states.cu_S1[:-1].long()].float()
        for linear, act in self.steps:
            states_SD = torch.tanh(linear(states_SD)) if act == "tanh" else linear(states_SD)
        return states_SD


class MaskedLM:
    """Every token's state -> a logit for each entry of the vocabulary; products in `dtype`."""

    def __init__(self, tensors: Tensors, kind: str, device: str, dtype: torch.dtype) -> None:
        names, config = MASKED_LMS[kind], tensors.config
        self.eps = 1e-12 if kind == "distilbert" else config.get("layer_norm_eps", 1e-12)
        self.dtype = dtype
        act = "gelu" if names.act == "gelu" else config.get(names.act, "gelu")
        # What is tied is not in the file twice. transformers goes by the file where both are.
        table = f"{FAMILIES[kind].prefix}embeddings.word_embeddings.weight"
        tied = config.get("tie_word_embeddings", True)
        weight_VE = tensors.first(f"{names.decoder}.weight", table if tied else "")
        bias_V = tensors.first(f"{names.decoder}.bias", names.bias if tied else "")
        self.dense = Linear(*(t.to(device, dtype) for t in tensors.pair(names.dense)), act)
        self.norm = tuple(t.to(device) for t in tensors.pair(names.norm))
        self.decoder = Linear(weight_VE.to(device, dtype), bias_V.to(device, dtype))

    @torch.inference_mode()
    def __call__(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """(T, D) -> (T, V) fp32."""
        states_TE = self.dense(hidden_TD.to(self.dtype)).float()
        states_TE = layer_norm(states_TE, states_TE.shape[1:], *self.norm, self.eps)
        return self.decoder(states_TE.to(self.dtype)).float()


class Tensors:
    """The tensors of a folder's own weight files by name, read when asked for, as fp32 copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_bytes())
        self.files: dict[str, Path] = {}
        for path in weight_files(folder):
            with self._open(path) as file:
                self.files |= dict.fromkeys(file.keys(), path)

    def pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias. Old files call those of LayerNorm gamma and beta."""
        old = {"weight": "gamma", "bias": "beta"}
        first, second = (self.first(f"{name}.{n}", f"{name}.{old[n]}") for n in old)
        return first, second

    def first(self, *names: str) -> torch.Tensor:
        """The first of the named tensors that is there; ModelError if none is."""
        name = next((name for name in names if name in self.files), None)
        if name is None:
            raise no_head(self.folder, names[0])
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
