"""The pool room: hidden states of a pack -> one finished vector a sequence, on the same device.

Columns of tokens have one vector a token instead, and columns of scores and sparse take theirs
from a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np

    from embedmill.pipeline.contracts import Hidden, Loaded
    from embedmill.schemas.plan import VectorColumn

Map = Callable[[torch.Tensor], torch.Tensor]
Offsets = "np.ndarray | torch.Tensor"


def _positions(cu_S1: torch.Tensor) -> torch.Tensor:
    """1 .. n of each sequence, (T, 1) fp32."""
    starts_T = torch.repeat_interleave(cu_S1[:-1], cu_S1.diff())
    return (torch.arange(len(starts_T), device=cu_S1.device) - starts_T + 1).float()[:, None]


def _reduce(how: str, values: torch.Tensor, cu_S1: torch.Tensor) -> torch.Tensor:
    """Over each sequence, in fp32; unsafe: checking the lengths would wait for the device."""
    return torch.segment_reduce(values.float(), how, lengths=cu_S1.diff(), unsafe=True)


def _mean(hidden_TD: torch.Tensor, cu_S1: torch.Tensor) -> torch.Tensor:
    return _reduce("mean", hidden_TD, cu_S1)


# pooling -> (hidden (T, D), cu (S + 1,)) -> (S, D), or (T, D) of tokens. Sums go sequence by
# sequence in token order, never by scattered adds: those give other bits on every call on a GPU.
POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": lambda hidden_TD, cu_S1: hidden_TD[cu_S1[:-1]],
    "pooler": lambda hidden_TD, cu_S1: hidden_TD[cu_S1[:-1]],  # then the model's own pooler
    "mean": _mean,
    "max": lambda hidden_TD, cu_S1: _reduce("max", hidden_TD, cu_S1),
    "last": lambda hidden_TD, cu_S1: hidden_TD[cu_S1[1:] - 1],
    "mean_sqrt_len": lambda hidden_TD, cu_S1: (
        _mean(hidden_TD, cu_S1) * cu_S1.diff()[:, None].float().sqrt()
    ),
    # Token n of a sequence weighs n; the mean of the weights is (n + 1) / 2.
    "weighted_mean": lambda hidden_TD, cu_S1: (
        _mean(hidden_TD * _positions(cu_S1), cu_S1) / ((cu_S1.diff() + 1)[:, None] / 2)
    ),
    "tokens": lambda hidden_TD, cu_S1: hidden_TD,  # (T, D): all of them
}
# what a head's logits go through; that of a sparse column is one for which max may come first
ACTIVATIONS: dict[str, Map] = {
    "identity": lambda logits: logits,
    "sigmoid": torch.sigmoid,
    "log1p_relu": lambda logits: torch.log1p(torch.relu(logits)),
    "log1p_log1p_relu": lambda logits: torch.log1p(torch.log1p(torch.relu(logits))),
}
DTYPES = {"float16": torch.float16}  # what is quantized is quantized from fp32
NORM_TOLERANCE = 1e-3  # float16 keeps a norm to about 3e-4
LOGIT_TOKENS = 2048  # whose logits are there at once: 250 MB with BERT's vocabulary


def pooled(states: Hidden, cu_S1: np.ndarray, column: VectorColumn, loaded: Loaded) -> torch.Tensor:
    """A column's values for a pack, before `finish`: fp32, (S, D) or (T, D) of tokens."""
    if column.source == "scores":
        return ACTIVATIONS[column.pooling](loaded.heads.scores(states, cu_S1))
    if column.source == "sparse":
        logits = _most(states.hidden_TD, cu_S1, loaded.heads.token_logits)
        return ACTIVATIONS[column.pooling](logits)
    states_TD = states.input_TD if column.source == "input" else states.hidden_TD
    pooling, _, dense = column.pooling.partition(">")
    vectors = pool(states_TD, states.cu_S1, pooling, loaded.encoder.pooler)
    return loaded.tail(vectors) if dense else vectors


@torch.inference_mode()
def pool(hidden_TD: torch.Tensor, cu_S1: Offsets, pooling: str, pooler: Map) -> torch.Tensor:
    """One fp32 vector a sequence: (T, D) -> (S, D). `pooler` is the encoder's, for [CLS] states.

    Several poolings joined by "+" give their vectors side by side.
    """
    cu = torch.as_tensor(cu_S1, device=hidden_TD.device).long()
    vectors = [POOLINGS[one](hidden_TD, cu).float() for one in pooling.split("+")]
    vectors_SD = torch.cat(vectors, dim=1) if len(vectors) > 1 else vectors[0]
    return pooler(vectors_SD) if pooling == "pooler" else vectors_SD


@torch.inference_mode()
def _most(hidden_TD: torch.Tensor, cu_S1: np.ndarray, token_logits: Map) -> torch.Tensor:
    """The largest logit of each vocabulary entry over a sequence's tokens: (T, D) -> (S, V).

    A few sequences at a time, because a pack's logits are far larger than its states.
    """
    best, first = [], 0
    while first < len(cu_S1) - 1:
        last = max(int((cu_S1 <= cu_S1[first] + LOGIT_TOKENS).sum()) - 1, first + 1)
        logits_TV = token_logits(hidden_TD[cu_S1[first] : cu_S1[last]])
        lengths = (cu_S1[first + 1 : last + 1] - cu_S1[first:last]).tolist()
        best += [one_LV.amax(dim=0) for one_LV in logits_TV.split(lengths)]
        first = last
    return torch.stack(best)


@torch.inference_mode()
def finish(vectors_SD: torch.Tensor, column: VectorColumn) -> torch.Tensor:
    """Cut to the column's dim, then normalised, then cast: (S, D) fp32 -> (S, dim).

    A value beyond float16 becomes infinity, so that `faulty` sees it in what is stored.
    """
    cut = vectors_SD[:, : column.dim]
    if column.normalize:
        cut = torch.nn.functional.normalize(cut, p=2, dim=1, eps=1e-12)
    return cut.to(DTYPES.get(column.dtype, torch.float32)).contiguous()


@torch.inference_mode()
def faulty(vectors_SD: torch.Tensor, normalize: bool) -> torch.Tensor:
    """Which finished vectors must not be stored: (S,) bool.

    A non-finite or all-zero vector; one whose norm is not 1 where it should be.
    """
    vectors_SD = vectors_SD.float()
    most_S = vectors_SD.abs().amax(dim=1)  # of a vector with a NaN this is NaN
    bad_S = ~((most_S > 0) & (most_S < torch.inf))
    if normalize:  # written so that a NaN norm counts as wrong
        bad_S |= ~((vectors_SD.norm(dim=1) - 1).abs() <= NORM_TOLERANCE)
    return bad_S


@torch.inference_mode()
def faults(vectors: torch.Tensor, cu_S1: Offsets, column: VectorColumn) -> torch.Tensor:
    """Which sequences' values must not be stored: (S,) bool. The guard of every kind of column.

    A score may be zero; one bad token makes its sequence bad.
    """
    if column.source == "scores":
        return ~torch.isfinite(vectors).all(dim=1)
    bad = faulty(vectors, column.normalize)
    if column.pooling == "tokens":
        bad = _reduce("max", bad, torch.as_tensor(cu_S1, device=bad.device).long()) > 0
    return bad
