"""What a model has before and behind its layers, in fp32: embedding tables and pooler.

E is the width of the embedding tables: D, but for ELECTRAs that project their sum to D.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import embedding, layer_norm

from embedmill.pipeline.encode.linear import Linear
from embedmill.pipeline.encode.transfer import to_device
from embedmill.pipeline.encode.weights import Weights
from embedmill.schemas.errors import ModelError

if TYPE_CHECKING:
    from embedmill.pipeline.batches import Pack

Norm = tuple[torch.Tensor, torch.Tensor]  # weight and bias, (D,)


class Ends:
    """Both ends of one of our families, whatever runs the layers between them."""

    def __init__(self, weights: Weights, device: str) -> None:
        self.device, self.eps = device, weights.config.eps
        self.token, self.position = weights.token.to(device), weights.position.to(device)
        self.segment = None if weights.segment is None else weights.segment.to(device)
        self.norm: Norm = tuple(tensor.to(device) for tensor in weights.norm)
        self.project = Linear(*(t.to(device) for t in weights.project)) if weights.project else None
        # The pooler sees one token of a sequence: fp32 costs nothing there.
        self.dense = Linear(*(t.to(device) for t in weights.pooler)) if weights.pooler else None

    @torch.inference_mode()
    def embeddings(self, pack: Pack) -> tuple[torch.Tensor, ...]:
        """What layer 0 receives, and how it comes about; four tensors (T, E), one (T, D); fp32.

        token, segment and position embeddings, their sum element by element, and its LayerNorm,
        projected where the tables are narrower than the layers. No segments: zeros.
        """
        token_TE = self._look_up(pack.ids_T, self.token, "token id")
        position_TE = self._look_up(pack.positions_T, self.position, "position")
        if self.segment is None:
            segment_TE = torch.zeros_like(token_TE)
        else:
            segment_TE = self._look_up(pack.types_T, self.segment, "segment id")
        sum_TE = token_TE + segment_TE + position_TE
        normed_TD = layer_norm(sum_TE, sum_TE.shape[1:], *self.norm, self.eps)
        if self.project is not None:
            normed_TD = self.project(normed_TD)
        return token_TE, segment_TE, position_TE, sum_TE, normed_TD

    @torch.inference_mode()
    def pooler(self, cls_SD: torch.Tensor) -> torch.Tensor:
        """BERT's pooler: tanh(dense) over the [CLS] states; (S, D) -> (S, D)."""
        if self.dense is None:
            do = "choose another pooling"
            raise ModelError("POOLER_MISSING", "model", "its weights hold no pooler", do)
        return torch.tanh(self.dense(cls_SD))

    def _look_up(self, ids_T: np.ndarray, table: torch.Tensor, what: str) -> torch.Tensor:
        return embedding(indices(ids_T, len(table), what, self.device), table)


def indices(ids_T: np.ndarray, size: int, what: str, device: str) -> torch.Tensor:
    """Ids on the device, known to be below a table's size."""
    check_ids(ids_T, size, what)
    return to_device(ids_T.astype(np.int32), device)


def check_ids(ids_T: np.ndarray, size: int, what: str) -> None:
    """ModelError for an id that a table has no row for: CUDA would abort the whole process."""
    if len(ids_T) and not 0 <= int(ids_T.min()) <= int(ids_T.max()) < size:
        do = "tokenizer and weights belong to different models"
        worst = f"{what} {int(ids_T.min())}..{int(ids_T.max())} in a table of {size}"
        raise ModelError("ID_OUT_OF_RANGE", "pack", worst, do)


def filled(pack: Pack, multiple: int) -> Pack:
    """The pack with sequences of one token behind it, up to a multiple of tokens."""
    tail = -len(pack.ids_T) % multiple
    ids_T = np.append(pack.ids_T, np.repeat(pack.ids_T[:1], tail))
    cu_S1 = np.append(pack.cu_S1, len(pack.ids_T) + 1 + np.arange(tail))
    return type(pack)(ids_T, cu_S1, np.append(pack.second_S, np.ones(tail, np.int32)))
