"""Heads of the architectures that are not ours: transformers' own, over hidden states of ours.

A head is what transformers' class does behind its trunk, and each class does it in its own way. So
the class is loaded whole, and in its trunk's place comes one that hands back the states which it
is given. Whether that is the same is asked once, at load, of random tokens.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from embedmill.pipeline.encode.attention import runs
from embedmill.pipeline.encode.auto import apply_pooler, read_pretrained
from embedmill.pipeline.encode.linear import ROUND_TOKENS
from embedmill.pipeline.encode.weights import no_head
from embedmill.schemas.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from embedmill.pipeline.contracts import Hidden

TEST_TOKENS = 7
TOLERANCE = 1e-5  # of the largest logit


class Output(tuple):
    """What a trunk gives: last states, and what its pooler makes of them; by number or by name."""

    last_hidden_state = property(lambda self: self[0])
    pooler_output = property(lambda self: self[1])

    def __getattr__(self, name: str) -> None:
        """A head may hand on caches and attentions, which are not there."""
        if name.startswith("_"):
            raise AttributeError(name)


class Given(torch.nn.Module):
    """In a trunk's place: the states that come as embeddings leave as the last hidden states."""

    def __init__(self, trunk: torch.nn.Module) -> None:
        super().__init__()
        if getattr(trunk, "pooler", None) is not None:
            self.pooler = trunk.pooler
            self.pooler_activation = getattr(trunk, "pooler_activation", None)

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> Output:
        """(S, L, D) -> what a trunk of transformers gives."""
        pooled_SD = apply_pooler(self, inputs_embeds) if hasattr(self, "pooler") else None
        return Output((inputs_embeds, pooled_SD))


class _Behind:
    """A class of transformers without its trunk."""

    def __init__(self, folder: Path, kind: str, device: str, dtype: torch.dtype) -> None:
        self.model, info = read_pretrained(kind, folder)
        lost = sorted(info["missing_keys"])
        if kind == "AutoModelForMaskedLM":  # it has no use for a pooler
            lost = [name for name in lost if "pooler" not in name]
        if lost:
            raise no_head(folder, lost[0])
        for name, tensor in self.model.named_parameters():
            if not torch.isfinite(tensor).all():
                what = f"{name} has NaN or infinity"
                raise ModelError("WEIGHTS_NOT_FINITE", str(folder), what, "fetch the model again")
        self.masked = "attention_mask" in inspect.signature(self.model.forward).parameters
        self._take_trunk_out(folder)
        self.model.to(device, dtype)
        self.dtype = dtype

    @torch.inference_mode()
    def logits(self, states_SLD: torch.Tensor) -> torch.Tensor:
        """(S, L, D) of sequences of one length -> the class's own logits, fp32."""
        mask = {"attention_mask": states_SLD.new_ones(states_SLD.shape[:2]).long()}
        given = mask if self.masked else {}
        return self.model(inputs_embeds=states_SLD.to(self.dtype), **given).logits.float()

    @torch.inference_mode()
    def _take_trunk_out(self, folder: Path) -> None:
        model, name = self.model, self.model.base_model_prefix
        trunk = getattr(model, name)
        rows = model.get_input_embeddings().weight.shape[0]
        padding = getattr(model.config, "pad_token_id", None)
        words = [n for n in range(rows) if n != padding]
        ids = torch.tensor([words[-TEST_TOKENS:]])
        want, states = model(input_ids=ids).logits, trunk(input_ids=ids).last_hidden_state
        self.dtype = torch.float32
        setattr(model, name, Given(trunk))
        got = self.logits(states)
        if not (got - want).abs().max() <= TOLERANCE * want.abs().max().clamp(min=1):
            what = f"the head of {type(model).__name__} does not stand behind its trunk alone"
            do = "choose a model of another architecture"
            raise ModelError("MODEL_UNSUPPORTED", str(folder), what, do)


class AutoClassifier:
    """Sequences' states -> logits, in fp32; the class pools as it does."""

    def __init__(self, folder: Path, device: str) -> None:
        self.head = _Behind(folder, "AutoModelForSequenceClassification", device, torch.float32)

    def __call__(self, states: Hidden, cu_S1: np.ndarray) -> torch.Tensor:
        """The states of a pack -> (S, N) fp32.

        On the CPU each sequence is alone: there the bits of few rows depend on how many they are.
        """
        found = []
        for start, n, length in runs(cu_S1):
            states_SLD = states.hidden_TD[start : start + n * length].unflatten(0, (n, length))
            together = n if states_SLD.is_cuda else 1
            found += [self.head.logits(some) for some in states_SLD.split(together)]
        return torch.cat(found)


class AutoMaskedLM:
    """Every token's state -> a logit for each entry of the vocabulary; products in `dtype`."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        self.head = _Behind(folder, "AutoModelForMaskedLM", device, dtype)

    def __call__(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """(T, D) -> (T, V) fp32; filled up like a pack."""
        tokens = len(hidden_TD)
        filled_TD = pad(hidden_TD, (0, 0, 0, -tokens % ROUND_TOKENS))
        return self.head.logits(filled_TD[None])[0, :tokens]
