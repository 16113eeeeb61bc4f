"""Linear layers: oneDNN with prepacked weights on the CPU, F.linear everywhere else.

torch's own fp32 product goes through MKL, which reaches half of what an AMD core can do; oneDNN
reaches nearly all of it, and takes the activation or the residual along. Its operators are those
that torch's compiler emits, but private: this file alone names them, and they are compared with
F.linear once per process before they are trusted. N is the output width, K here the input width.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

# hidden_act of config.json -> the torch function, oneDNN's name, oneDNN's variant
ACTIVATIONS = {
    "none": (lambda x: x, "none", ""),
    "gelu": (nn.functional.gelu, "gelu", "none"),
    "gelu_new": (nn.GELU("tanh"), "gelu", "tanh"),
    "gelu_pytorch_tanh": (nn.GELU("tanh"), "gelu", "tanh"),
    "relu": (nn.functional.relu, "relu", ""),
}
TYPICAL_TOKENS = 1024  # the size that oneDNN lays the weights out for; other sizes work as well
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.06}  # on values of about ±4

# A pack is filled up to a multiple with a sequence of zeros. Every size that occurs keeps some
# megabytes in oneDNN and in the heap: with any size, memory grows for hundreds of packs.
ROUND_TOKENS = 64


class Linear:
    """act(x W^T + b), in the weights' dtype."""

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor, act: str = "none") -> None:
        self.bias_N = bias_N
        self.function, self.act, self.variant = ACTIVATIONS[act]
        self.packed = weight_NK.device.type == "cpu" and onednn_works(weight_NK.dtype)
        self.weight = _pack(weight_NK) if self.packed else weight_NK.contiguous()

    def __call__(self, x_TK: torch.Tensor) -> torch.Tensor:
        """(T, K) -> (T, N)."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(
                x_TK, self.weight, self.bias_N, self.act, [], self.variant
            )
        return self.function(nn.functional.linear(x_TK, self.weight, self.bias_N))

    def plus(self, x_TK: torch.Tensor, residual_TN: torch.Tensor) -> torch.Tensor:
        """residual + x W^T + b, in the residual's dtype; only for layers without activation."""
        if self.packed and x_TK.dtype == residual_TN.dtype:
            return torch.ops.mkldnn._linear_pointwise.binary(
                x_TK, residual_TN, self.weight, self.bias_N, "add"
            )
        return residual_TN + self(x_TK)


def _pack(weight_NK: torch.Tensor) -> torch.Tensor:
    """The weights in oneDNN's own layout."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_NK.contiguous(), TYPICAL_TOKENS)


def rounded(x_RK: torch.Tensor) -> torch.Tensor:
    """Each row as 8 bits hold it: at most 127 steps of its own size to either side of zero."""
    step_R1 = x_RK.abs().amax(dim=1, keepdim=True) / 127
    return torch.where(step_R1 == 0, x_RK, (x_RK / step_R1).round() * step_R1)


@cache
def onednn_works(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and agrees with F.linear, each activation and the sum included.

    It does not where an operator is missing or changed, the CPU lacks the instructions, or the
    environment asks oneDNN for a lower precision than the tensors have.
    """
    if dtype not in TOLERANCE:
        return False
    random = torch.Generator().manual_seed(0)
    x_TK, weight_NK, residual_TN = (
        torch.randn(shape, generator=random).to(dtype) for shape in ((40, 96), (64, 96), (40, 64))
    )
    weight_NK, bias_N = weight_NK / 96**0.5, residual_TN[0].clone()
    plain_TN = nn.functional.linear(x_TK.float(), weight_NK.float(), bias_N.float())
    try:
        weight, op = _pack(weight_NK), torch.ops.mkldnn._linear_pointwise
        got = [op(x_TK, weight, bias_N, act, [], how) for _, act, how in ACTIVATIONS.values()]
        got.append(op.binary(x_TK, residual_TN, weight, bias_N, "add"))
    except (AttributeError, RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    want = [function(plain_TN) for function, _, _ in ACTIVATIONS.values()]
    want.append(plain_TN + residual_TN.float())
    return all(
        torch.allclose(g.float(), w, rtol=0, atol=TOLERANCE[dtype])
        for g, w in zip(got, want, strict=True)
    )
