"""The fast forward pass of our families on a GPU: half precision, few kernels, one graph a shape.

A layer is seven kernels: attention, two LayerNorms and four products, of which one carries GELU
along and two add to the residual in place. GELU is its tanh form, the only one that a product can
carry: 1 - cos of 1e-6. States are half precision between kernels, sums inside them fp32.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from embedmill.pipeline.contracts import Hidden
from embedmill.pipeline.encode.attention import attend_flash, flash_takes
from embedmill.pipeline.encode.embeddings import Ends, Norm, check_ids
from embedmill.pipeline.encode.graphs import Graphs, Shape
from embedmill.pipeline.encode.transfer import is_cuda
from embedmill.pipeline.encode.weights import Layer, Weights

if TYPE_CHECKING:
    from embedmill.pipeline.batches import Pack

SHORT = 512  # up to this length our own attention is faster than one that is made for long texts
Pair = tuple[torch.Tensor, torch.Tensor]  # weight (in, out), a view, and bias (out,)


def fits(weights: Weights) -> bool:
    """Whether these weights can take the fast pass: no bias of distances, a head width it knows."""
    width = weights.config.width // weights.config.heads
    known = weights.bias is None and flash_takes(width)
    return known and importlib.util.find_spec("triton") is not None


class CudaLayer:
    """One transformer layer over a pack whose ids and offsets lie on the device."""

    def __init__(self, layer: Layer, act: str, device: str, dtype: torch.dtype) -> None:
        def pair(given: tuple[torch.Tensor, torch.Tensor]) -> Pair:
            weight_NK, bias_N = (tensor.to(device, dtype) for tensor in given)
            return weight_NK.contiguous().t(), bias_N

        self.qkv, self.out = pair(layer.qkv), pair(layer.out)
        self.up, self.down = pair(layer.up), pair(layer.down)
        self.norm_1: Norm = tuple(tensor.to(device) for tensor in layer.norm_1)
        self.norm_2: Norm = tuple(tensor.to(device) for tensor in layer.norm_2)
        self.gelu = act != "relu"

    def __call__(
        self, x_TD: torch.Tensor, cu_N1: torch.Tensor, heads: int, longest: int, eps: float
    ) -> torch.Tensor:
        """(T, D) -> (T, D), in place."""
        from embedmill.pipeline.encode import kernels

        qkv_T3D = _product(x_TD, self.qkv)
        if longest <= SHORT and x_TD.shape[1] // heads in kernels.HEAD_WIDTHS:
            mixed_TD = kernels.attend(qkv_T3D, cu_N1, heads, longest)
        else:
            mixed_TD = _flash(qkv_T3D, cu_N1, heads, longest)
        kernels.add_norm_(x_TD.addmm_(mixed_TD, self.out[0]), self.out[1], self.norm_1, eps)
        inner_TF = _activated(x_TD, self.up, self.gelu)
        x_TD.addmm_(inner_TF, self.down[0])
        return kernels.add_norm_(x_TD, self.down[1], self.norm_2, eps)


class PackedCuda:
    """An `Encoder`: one of our families, fast, on a GPU."""

    def __init__(self, weights: Weights, device: str, dtype: torch.dtype) -> None:
        self.config, self.device, self.dim = weights.config, device, weights.config.width
        self.dtype = dtype
        self.ends = Ends(weights, device)
        self.embeddings, self.pooler = self.ends.embeddings, self.ends.pooler
        self.project = None
        if weights.project:
            weight_DE, bias_D = (tensor.to(device, dtype) for tensor in weights.project)
            self.project = weight_DE.t(), bias_D
        self.layers = [CudaLayer(layer, self.config.act, device, dtype) for layer in weights.layers]
        on_gpu = is_cuda(device)
        self.forward = Graphs(self._forward) if on_gpu else self._forward
        self.engine = {
            "device": torch.device(device).type,
            "precision": "fast",
            "attention": "varlen",
            "path": "packed-graphs",
        }
        if on_gpu:
            self.engine["gpu"] = torch.cuda.get_device_name(device)

    @torch.inference_mode()
    def encode(self, pack: Pack) -> Hidden:
        """The first and the last hidden states of every token of the pack, in half precision."""
        check_ids(pack.ids_T, self.config.vocab, "token id")
        check_ids(pack.lengths_S, len(self.ends.position) + 1, "a sequence of tokens")
        if self.ends.segment is not None and len(self.ends.segment) < 2:
            check_ids((pack.second_S < pack.lengths_S).view("u1"), 1, "segment id")
        shape, total = Shape.of(pack), len(pack.ids_T)
        on_gpu = is_cuda(self.device)
        # Pinned memory that a copy still reads is not given out again, so nothing has to wait.
        flat = torch.empty(shape.inputs, dtype=torch.int32, pin_memory=on_gpu)
        shape.fill(pack, flat.numpy())
        inputs = flat.to(self.device, non_blocking=True)
        try:
            input_TD, hidden_TD = self.forward(inputs, shape)
        except torch.OutOfMemoryError:
            if isinstance(self.forward, Graphs):
                self.forward.forget()
            raise
        cu_S1 = shape.split(inputs)[1][: len(pack.cu_S1)]
        return Hidden(input_TD[:total], hidden_TD[:total], cu_S1)

    def _forward(self, inputs: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
        from embedmill.pipeline.encode import kernels

        ids_T, cu_N1, second_N = shape.split(inputs)
        tables = self.ends.token, self.ends.segment, self.ends.position
        eps, heads = self.config.eps, self.config.heads
        input_TD = kernels.embed(
            ids_T, cu_N1, second_N, tables, self.ends.norm, eps, shape.longest, self.dtype
        )
        if self.project is not None:
            input_TD = _product(input_TD, self.project)
        x_TD = input_TD.clone()
        for layer in self.layers:
            x_TD = layer(x_TD, cu_N1, heads, shape.longest, eps)
        return input_TD, x_TD


def _flash(qkv_T3D: torch.Tensor, cu_N1: torch.Tensor, heads: int, longest: int) -> torch.Tensor:
    """(T, 3D) -> (T, D), by the attention that is made for long texts."""
    total, width = qkv_T3D.shape[0], qkv_T3D.shape[1] // 3
    q, k, v = qkv_T3D.view(total, 3, heads, width // heads).unbind(1)
    return attend_flash(q, k, v, cu_N1, longest).reshape(total, width)


def _product(x_TK: torch.Tensor, pair: Pair) -> torch.Tensor:
    """x W + b: (T, K) -> (T, N)."""
    return torch.addmm(pair[1], x_TK, pair[0])


def _activated(x_TK: torch.Tensor, pair: Pair, gelu: bool) -> torch.Tensor:
    """GELU or ReLU of x W + b in one kernel where torch has it."""
    op = getattr(torch, "_addmm_activation", None)
    if op is not None:
        return op(pair[1], x_TK, pair[0], use_gelu=gelu)
    found = _product(x_TK, pair)
    return functional.gelu(found, approximate="tanh") if gelu else functional.relu(found)
