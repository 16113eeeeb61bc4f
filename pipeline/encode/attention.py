"""Attention over a pack without padding and without a mask.

Sequences of equal length that lie side by side are one *run*: a run of n sequences of L tokens is
a view of the flat axis as (n, L), so each run is one plain, dense attention. Packs are sorted by
length, hence have few runs; an unsorted pack gives the same values, only slower.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

PACK: ContextVar[Spans] = ContextVar("PACK")  # the one under way


@dataclass(frozen=True, slots=True)
class Spans:
    """Where the sequences of a pack are."""

    cu_S1: np.ndarray
    on_device: torch.Tensor  # the same, int32


def runs(cu_S1: np.ndarray) -> list[tuple[int, int, int]]:
    """(first token, sequences n, length L) of each run, in order; empty sequences have none."""
    lengths_S = np.diff(cu_S1)
    if not len(lengths_S):
        return []
    first = np.flatnonzero(np.diff(lengths_S, prepend=-1))
    count = np.diff(first, append=len(lengths_S))
    found = zip(cu_S1[first].tolist(), count.tolist(), lengths_S[first].tolist(), strict=True)
    return [run for run in found if run[2]]


def attend(
    qkv_T3D: torch.Tensor,
    pack_runs: list[tuple[int, int, int]],
    heads: int,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Self-attention inside each sequence: fused query, key, value (T, 3D) in, (T, D) out.

    bias: (1, H, L, L) or larger, added to the scores.
    """
    total, width = qkv_T3D.shape[0], qkv_T3D.shape[1] // 3
    mixed = []
    for start, n, length in pack_runs:
        qkv = qkv_T3D[start : start + n * length].view(n, length, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, H, L, K), a view
        mask = None if bias is None else bias[..., :length, :length]
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed.append(found.transpose(1, 2).reshape(-1, width))
    return torch.cat(mixed) if mixed else qkv_T3D.new_empty(total, width)


def flash_takes(width: int) -> bool:
    """Whether there is a GPU that has FlashAttention for heads of this width."""
    known = width % 8 == 0 and width <= 256
    return known and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def attend_flash(
    q_THK: torch.Tensor, k_THK: torch.Tensor, v_THK: torch.Tensor, cu_S1: torch.Tensor,
    longest: int, causal: bool = False, scale: float | None = None, window: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """Self-attention inside each sequence by torch's own FlashAttention: one kernel for a pack.

    On a GPU, in half precision; cu_S1: int32, on the device. A token sees those less than `window`
    tokens away. torch.nn.attention.varlen does no more than to call this operator, whose arguments
    are the same in every torch that has it.
    """
    near = None if window is None else window - 1
    return torch.ops.aten._flash_attention_forward(
        q_THK, k_THK, v_THK, cu_S1, cu_S1, longest, longest, 0.0, causal, False,
        scale=scale, window_size_left=near, window_size_right=0 if causal else near,
    )[0]  # fmt: skip


def distance_bias(table: torch.Tensor, length: int, farthest: int = 128) -> torch.Tensor:
    """What distances add to the scores, as MPNet has it: (buckets, H) -> (1, H, L, L).

    Half of the buckets are for tokens ahead. Of each half one half counts single tokens, the other
    grows by a factor up to `farthest`.
    """
    half = table.shape[0] // 2
    near = half // 2
    place = torch.arange(length, device=table.device)
    distance = place[:, None] - place[None, :]
    far = torch.log(distance.abs().clamp(min=1).float() / near) / math.log(farthest / near)
    far = (near + (far * (half - near)).long()).clamp(max=half - 1)
    bucket = torch.where(distance.abs() < near, distance.abs(), far) + half * (distance < 0)
    return table[bucket].permute(2, 0, 1)[None].contiguous()


def attend_registered(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """The same for transformers, with its arguments: (1, H, T, K) each -> (1, T, H, K).

    PACK tells where the sequences are. What it cannot do it refuses; the model is padded then.
    """
    if attention_mask is not None or any(more.get(n) is not None for n in ("softcap", "s_aux")):
        raise NotImplementedError("a mask, a bias or a sink")
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    pack, mixed = PACK.get(), []
    if query.is_cuda and query.element_size() == 2 and flash_takes(query.shape[3]):
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # each (T, H, K), a view
        longest = int(np.diff(pack.cu_S1).max())
        found = attend_flash(q, k, v, pack.on_device, longest, causal, scaling, sliding_window)
        return found[None], None
    for start, n, length in runs(pack.cu_S1):
        q, k, v = (
            x[0, :, start : start + n * length].unflatten(1, (n, length)).transpose(0, 1)
            for x in (query, key, value)
        )  # each (n, H, L, K)
        near = None
        if sliding_window is not None and length > sliding_window:
            place = torch.arange(length, device=q.device)
            apart = place[:, None] - place[None, :]
            near = (apart.abs() < sliding_window) & (apart >= 0 if causal else True)
        found = scaled_dot_product_attention(
            q, k, v, attn_mask=near, is_causal=causal and near is None, scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        mixed.append(found.transpose(1, 2).flatten(0, 1))
    return torch.cat(mixed)[None], None
