"""Contracts between rooms: an encoder, what it gives for a pack, and what is loaded with it.

S sequences, T tokens, D the model's width, V its vocabulary, N the labels of a classifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from embedmill.pipeline.batches import Pack


@dataclass(frozen=True, slots=True)
class Hidden:
    """The states of one pack, on the encoder's device; fp32, or half precision."""

    input_TD: torch.Tensor  # what layer 0 receives: LayerNorm(token + segment + position)
    hidden_TD: torch.Tensor  # what the last layer gives
    cu_S1: torch.Tensor  # the pack's offsets, for pooling


class Encoder(Protocol):
    """A model with its weights on a device. Made once per process, used for every pack."""

    dim: int  # D
    engine: dict[str, str]  # device, precision, attention, path: provenance, and the report's line

    def encode(self, pack: Pack) -> Hidden:
        """Runs the model over one pack."""
        ...

    def embeddings(self, pack: Pack) -> tuple[torch.Tensor, ...]:
        """Token, segment, position embeddings, their sum, and its LayerNorm; each (T, D) fp32."""
        ...

    def pooler(self, cls_SD: torch.Tensor) -> torch.Tensor:
        """BERT's pooler (dense + tanh) over [CLS] states; ModelError if the model has none."""
        ...


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads that a plan's columns ask for."""

    # the states of a pack and its offsets -> (S, N) fp32
    scores: Callable[[Hidden, np.ndarray], torch.Tensor] | None = None
    # some of its tokens' states (T, D) -> (T, V) fp32
    token_logits: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(slots=True)
class Memory:
    """How large a pack the device's memory holds, as far as is known."""

    most_tokens: float = math.inf  # of one pack; lowered each time memory does not suffice


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plan's encoder with all that its columns need; made by `load.load_encoder`."""

    encoder: Encoder
    exact: Callable[[], Loaded]  # the same in fp32, for what half precision cannot hold
    heads: Heads = field(default_factory=Heads)
    # dense layers after the model's own pooling: (S, D) -> (S, E)
    tail: Callable[[torch.Tensor], torch.Tensor] | None = None
    memory: Memory = field(default_factory=Memory)
    turn: Lock = field(default_factory=Lock)  # whose packs the device gets next, among threads

    @property
    def engine(self) -> dict[str, str]:
        """The encoder's facts, and the limit of a pack once memory did not suffice for more."""
        most = self.memory.most_tokens
        limit = {} if most == math.inf else {"most_tokens": str(int(most))}
        return {**self.encoder.engine, **limit}
