"""The steps of a forward pass on a GPU that torch has no single kernel for, written in Triton.

Triton comes with torch's CUDA builds. Every kernel sums in fp32 and in an order that only a token's
own sequence decides, so that its bits do not depend on its pack-mates. Rows of the flat axis that
belong to no sequence are left as they are. N counts places for sequences, some of them empty.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

Norm = tuple[torch.Tensor, torch.Tensor]  # weight and bias, (D,) fp32
ROW_VALUES = 2048  # of one program of `add_norm_`: several rows of a narrow model
EMBED_TOKENS = 4  # of one program of `embed`
HEAD_WIDTHS = (16, 32, 64)  # that `attend` knows; its tiles of wider ones would not fit


@triton.jit
def _norm(x, weight, bias, inside, width: tl.constexpr, eps):
    """LayerNorm of each row of x, (ROWS, BLOCK) fp32, of which `width` columns are inside."""
    mean = tl.sum(x, axis=1) / width
    apart = tl.where(inside, x - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(apart * apart, axis=1) / width + eps)
    return apart * scale[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def _embed(
    ids_T, cu_N1, second_N, token, segment, position, weight, bias, out_TE, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    start, end = tl.load(cu_N1 + tl.program_id(0)), tl.load(cu_N1 + tl.program_id(0) + 1)
    places = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    if tl.program_id(1) * TOKENS < end - start:
        columns = tl.arange(0, BLOCK)
        rows_in, columns_in = places < end - start, columns < WIDTH
        inside = rows_in[:, None] & columns_in[None, :]
        ids = tl.load(ids_T + start + places, mask=rows_in, other=0).to(tl.int64)
        x = tl.load(token + ids[:, None] * WIDTH + columns[None, :], mask=inside, other=0.0)
        if TYPES:
            types = (places >= tl.load(second_N + tl.program_id(0))).to(tl.int32)
            at = types[:, None] * WIDTH + columns[None, :]
            x += tl.load(segment + at, mask=inside, other=0.0)
        x += tl.load(position + places[:, None] * WIDTH + columns[None, :], mask=inside, other=0.0)
        w = tl.load(weight + columns, mask=columns_in, other=0.0)
        b = tl.load(bias + columns, mask=columns_in, other=0.0)
        y = _norm(x, w, b, inside, WIDTH, eps)
        at = (start + places).to(tl.int64)[:, None] * WIDTH + columns[None, :]
        tl.store(out_TE + at, y.to(out_TE.dtype.element_ty), mask=inside)


def embed(
    ids_T: torch.Tensor,
    cu_N1: torch.Tensor,
    second_N: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor],
    norm: Norm,
    eps: float,
    longest: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """LayerNorm(token + segment + position), (T, E): what layer 0 receives.

    All ids int32. tables: token, segment and position embeddings, fp32; no segments: None.
    """
    token, segment, position = tables
    width = token.shape[1]
    out_TE = torch.empty(len(ids_T), width, dtype=dtype, device=ids_T.device)
    grid = (len(second_N), triton.cdiv(longest, EMBED_TOKENS))
    _embed[grid](
        ids_T, cu_N1, second_N, token, token if segment is None else segment, position, *norm,
        out_TE, eps, width, triton.next_power_of_2(width), EMBED_TOKENS, segment is not None,
    )  # fmt: skip
    return out_TE


@triton.jit
def _add_norm(
    x_TD, added_D, weight, bias, total, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < total)[:, None] & (columns < WIDTH)[None, :]
    at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    added = tl.load(added_D + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    x = tl.load(x_TD + at, mask=inside, other=0.0).to(tl.float32) + added[None, :]
    w = tl.load(weight + columns, mask=columns < WIDTH, other=0.0)
    b = tl.load(bias + columns, mask=columns < WIDTH, other=0.0)
    y = _norm(x, w, b, inside, WIDTH, eps)
    tl.store(x_TD + at, y.to(x_TD.dtype.element_ty), mask=inside)


def add_norm_(x_TD: torch.Tensor, added_D: torch.Tensor, norm: Norm, eps: float) -> torch.Tensor:
    """LayerNorm(x + added) in place of x, (T, D)."""
    total, width = x_TD.shape
    block = triton.next_power_of_2(width)
    rows = max(1, ROW_VALUES // block)
    grid = (triton.cdiv(total, rows),)
    _add_norm[grid](x_TD, added_D, *norm, total, eps, width, block, rows)
    return x_TD


@triton.jit
def _attend(
    qkv_T3D, cu_N1, out_TD, scale, HEADS: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr
):
    start, end = tl.load(cu_N1 + tl.program_id(0)), tl.load(cu_N1 + tl.program_id(0) + 1)
    length = end - start
    first = tl.program_id(2) * BLOCK
    if first < length:
        width: tl.constexpr = HEADS * K
        rows, columns = tl.arange(0, BLOCK), tl.arange(0, K)
        head = qkv_T3D + start.to(tl.int64) * (3 * width) + tl.program_id(1) * K
        at = (first + rows)[:, None] * (3 * width) + columns[None, :]
        q = tl.load(head + at, mask=(first + rows < length)[:, None], other=0.0)
        best = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        mixed = tl.zeros([BLOCK, K], tl.float32)
        for begin in range(0, length, BLOCK):
            inside = begin + rows < length
            at = (begin + rows)[:, None] * (3 * width) + columns[None, :]
            k = tl.load(head + width + at, mask=inside[:, None], other=0.0)
            v = tl.load(head + 2 * width + at, mask=inside[:, None], other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(inside[None, :], scores, float("-inf"))
            higher = tl.maximum(best, tl.max(scores, axis=1))
            weights = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(best - higher)
            total = total * shrink + tl.sum(weights, axis=1)
            mixed = mixed * shrink[:, None]
            mixed += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            best = higher
        at = (start + first + rows).to(tl.int64)[:, None] * width + columns[None, :]
        at += tl.program_id(1) * K
        y = (mixed / total[:, None]).to(out_TD.dtype.element_ty)
        tl.store(out_TD + at, y, mask=(first + rows < length)[:, None])


def attend(qkv_T3D: torch.Tensor, cu_N1: torch.Tensor, heads: int, longest: int) -> torch.Tensor:
    """Self-attention inside each sequence: fused query, key, value (T, 3D) in, (T, D) out.

    cu_N1: int32. A kernel for long texts spends a tile of 128 by 128 on a sequence of 30 tokens;
    here a tile is not much larger than the longest sequence, and never above 64.
    """
    total, width = qkv_T3D.shape[0], qkv_T3D.shape[1] // 3
    k = width // heads
    block = min(64, max(16, triton.next_power_of_2(longest)))
    out_TD = qkv_T3D.new_empty(total, width)
    grid = (len(cu_N1) - 1, heads, triton.cdiv(longest, block))
    # exp2 in place of exp: the factor goes into the scale
    scale = k**-0.5 * 1.4426950408889634
    _attend[grid](
        qkv_T3D, cu_N1, out_TD, scale, heads, k, block,
        num_warps=block // 16,
        num_stages=1 if longest <= block else 3,  # one tile of keys: nothing to load ahead
    )  # fmt: skip
    return out_TD
