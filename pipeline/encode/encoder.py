"""The contract between the pipeline and any engine: one pack in, hidden states out."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from embedmill.pipeline.batches import Pack
    from embedmill.pipeline.encode.heads.ours import Heads


@dataclass(frozen=True, slots=True)
class Hidden:
    """What one forward pass of a pack gives, on the encoder's device; fp32, or half precision."""

    input_TD: torch.Tensor  # what layer 0 receives: LayerNorm(token + segment + position)
    hidden_TD: torch.Tensor  # what the last layer gives
    cu_S1: torch.Tensor  # the pack's offsets, for pooling


class Encoder(Protocol):
    """An engine with its weights loaded. Made once per process, used for every pack."""

    dim: int  # D
    engine: dict[str, str]  # device, precision, attention, path: provenance, and the report's line
    heads: Heads  # those that the columns ask for; set when it is loaded
    tail: Callable[[torch.Tensor], torch.Tensor]  # dense layers after the model's own pooling
    exact: Callable[[], Encoder]  # the same in fp32, for what half precision cannot hold
    most_tokens: float  # of one pack: less than infinity once memory did not suffice for more
    turn: Lock  # whose packs the device gets next, where several threads have units for it

    def encode(self, pack: Pack) -> Hidden:
        """Runs the model over one pack."""
        ...

    def embeddings(self, pack: Pack) -> tuple[torch.Tensor, ...]:
        """Token, segment, position embeddings, their sum, and its LayerNorm; each (T, D) fp32."""
        ...

    def pooler(self, cls_SD: torch.Tensor) -> torch.Tensor:
        """BERT's pooler (dense + tanh) over [CLS] states; ModelError if the model has none."""
        ...
