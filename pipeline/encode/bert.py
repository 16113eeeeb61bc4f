"""BERT and its kin over packs: the whole forward pass, on one flat token axis, for every device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import layer_norm, pad

from embedmill.pipeline.contracts import Hidden
from embedmill.pipeline.encode.attention import attend, distance_bias, runs
from embedmill.pipeline.encode.embeddings import Ends, Norm
from embedmill.pipeline.encode.linear import ROUND_TOKENS, Linear, rounded
from embedmill.pipeline.encode.transfer import to_device
from embedmill.pipeline.encode.weights import Layer, Weights

if TYPE_CHECKING:
    import numpy as np

    from embedmill.pipeline.batches import Pack


class PackedLayer:
    """One transformer layer; products in `dtype`, residual stream and LayerNorm in fp32.

    rounds: products of what 8 bits hold, in fp32; then `dtype` is that of attention alone.
    """

    def __init__(
        self, layer: Layer, act: str, device: str, dtype: torch.dtype, rounds: bool
    ) -> None:
        def linear(pair: tuple[torch.Tensor, torch.Tensor], act: str = "none") -> Linear:
            own = torch.float32 if rounds else dtype
            weight, bias = (tensor.to(device, own) for tensor in pair)
            return Linear(rounded(weight) if rounds else weight, bias, act)

        self.dtype, self.rounds = dtype, rounds
        self.qkv, self.out = linear(layer.qkv), linear(layer.out)
        self.up, self.down = linear(layer.up, act), linear(layer.down)
        self.norm_1: Norm = tuple(tensor.to(device) for tensor in layer.norm_1)
        self.norm_2: Norm = tuple(tensor.to(device) for tensor in layer.norm_2)

    def __call__(
        self, x_TD: torch.Tensor, pack_runs: list, heads: int, eps: float, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """(T, D) fp32 -> (T, D) fp32; bias (1, H, L, L) with L of the longest sequence."""
        qkv_T3D = self.qkv(self._operand(x_TD)).to(self.dtype)
        mixed_TD = self._operand(attend(qkv_T3D, pack_runs, heads, bias))
        x_TD = layer_norm(self.out.plus(mixed_TD, x_TD), x_TD.shape[1:], *self.norm_1, eps)
        inner_TF = self._operand(self.up(self._operand(x_TD)))
        return layer_norm(self.down.plus(inner_TF, x_TD), x_TD.shape[1:], *self.norm_2, eps)

    def _operand(self, x_TK: torch.Tensor) -> torch.Tensor:
        """What a product multiplies."""
        return rounded(x_TK.float()) if self.rounds else x_TK.to(self.dtype)


class PackedBert:
    """An `Encoder`: one of our families with its weights on a device."""

    def __init__(
        self, weights: Weights, device: str, dtype: torch.dtype, rounds: bool = False
    ) -> None:
        self.config, self.device, self.dim = weights.config, device, weights.config.width
        self.ends = Ends(weights, device)
        self.embeddings, self.pooler = self.ends.embeddings, self.ends.pooler
        self.bias = None if weights.bias is None else weights.bias.to(device)
        self.layers = [
            PackedLayer(layer, self.config.act, device, dtype, rounds) for layer in weights.layers
        ]
        precision = "exact" if dtype == torch.float32 else "fast"
        self.engine = {
            "device": torch.device(device).type,
            "precision": "int8" if rounds else precision,
            "attention": "sdpa-runs",
            "path": "packed-onednn" if self.layers[0].qkv.packed else "packed",
        }

    @torch.inference_mode()
    def encode(self, pack: Pack) -> Hidden:
        """The first and the last hidden states of every token of the pack."""
        *_, input_TD = self.embeddings(pack)
        hidden_TD = self.states(input_TD, pack.cu_S1)
        return Hidden(input_TD, hidden_TD, to_device(pack.cu_S1, self.device))

    def states(self, input_TD: torch.Tensor, cu_S1: np.ndarray) -> torch.Tensor:
        """What layer 0 receives -> what the last one gives; both (T, D) fp32."""
        tokens, tail = len(input_TD), -len(input_TD) % ROUND_TOKENS
        hidden_TD, bias = pad(input_TD, (0, 0, 0, tail)), None
        pack_runs = runs(cu_S1) + ([(tokens, 1, tail)] if tail else [])
        if self.bias is not None:
            longest = max((length for *_, length in pack_runs), default=0)
            bias = distance_bias(self.bias, longest).to(self.layers[0].dtype)
        for layer in self.layers:
            hidden_TD = layer(hidden_TD, pack_runs, self.config.heads, self.config.eps, bias)
        return hidden_TD[:tokens]
