"""Our families on a CPU with AVX-512 or AMX: embeddings and all layers in one call of our C code.

Beside being faster than torch's operators it promises more: every value is summed in an order that
its own sequence alone decides, so that its bits depend neither on its pack-mates nor on threads.
"""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad

from embedmill.pipeline.contracts import Hidden
from embedmill.pipeline.encode.attention import distance_bias
from embedmill.pipeline.encode.embeddings import Ends, check_ids
from embedmill.pipeline.encode.native import library as native
from embedmill.pipeline.encode.transfer import to_device
from embedmill.pipeline.encode.weights import Weights

if TYPE_CHECKING:
    from embedmill.pipeline.batches import Pack

ACTS = {"gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "relu": 3}
DTYPES = {"exact": torch.float32, "fast": torch.bfloat16, "int8": torch.int8}
BEYOND = 64  # distances behind the longest sequence that a tile may read
Pair = tuple[torch.Tensor, torch.Tensor]


class Product(ctypes.Structure):
    """A linear layer, as native/layer.h has it."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "scale", "offset")),
        *((name, ctypes.c_int) for name in ("outputs", "units")),
    ]


class Layer(ctypes.Structure):
    """One layer."""

    _fields_ = [
        *((name, Product) for name in ("qkv", "out", "up", "down")),
        *((name, ctypes.c_void_p * 2) for name in ("norm_1", "norm_2")),
    ]


class Tables(ctypes.Structure):
    """What layer 0 receives is made of these."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("token", "segment", "position")),
        ("norm", ctypes.c_void_p * 2),
    ]


class Model(ctypes.Structure):
    """All layers, and the embedding tables before them."""

    _fields_ = [
        ("layers", ctypes.POINTER(Layer)),
        *((name, ctypes.c_int) for name in ("count", "width", "heads", "act")),
        ("eps", ctypes.c_float),
        ("bias", ctypes.c_void_p),
        ("reach", ctypes.c_int),
        ("tables", Tables),
    ]


class Layers:
    """The layers of one of our families, laid out for the C code."""

    def __init__(self, weights: Weights, precision: str, threads: int, isa: str) -> None:
        self.precision, self.threads = precision, threads
        self.forward = native.library(isa, precision).forward
        self.panel, self.fill = native.PANEL[isa], native.FILL[isa]
        self.parts = native.PARTS if (isa, precision) == ("amx", "exact") else 1
        self.kept: list[torch.Tensor] = []  # what the structures point to
        self.memory, self.lock = torch.empty(0, dtype=torch.uint8), threading.Lock()
        config = weights.config
        made = [
            Layer(
                *(self._product(*getattr(layer, name)) for name in ("qkv", "out", "up", "down")),
                *(self._norm(norm) for norm in (layer.norm_1, layer.norm_2)),
            )
            for layer in weights.layers
        ]
        bias, reach = None, config.positions + BEYOND
        if weights.bias is not None:
            square = distance_bias(weights.bias, reach + 1)[0]  # (H, query, key)
            away = torch.cat([square[:, 0].flip(1), square[:, 1:, 0]], dim=1)
            bias = self._keep(away)  # (H, 2 reach + 1): queries before, at and behind a key
        self.model = Model(
            (Layer * len(made))(*made), len(made), config.width, config.heads, ACTS[config.act],
            config.eps, bias, reach, self._tables(weights),
        )  # fmt: skip

    def __call__(
        self, input_TD: torch.Tensor, cu_S1: np.ndarray, pack: Pack | None = None
    ) -> torch.Tensor:
        """What layer 0 receives -> what the last one gives; both (T, D) fp32, contiguous.

        With a pack, whose ids are known to be inside the tables, the first is written as well.
        """
        output_TD, lengths_S = torch.empty_like(input_TD), np.diff(cu_S1)
        sequence_T = np.repeat(np.arange(len(lengths_S), dtype=np.int32), lengths_S)
        ids = [] if pack is None else [pack.ids_T, pack.second_S]
        arrays = [np.ascontiguousarray(a, np.int32) for a in (*ids, cu_S1, sequence_T)]
        places = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
        states = [_pointer(tensor) for tensor in (input_TD, output_TD)]
        given = (
            ctypes.byref(self.model), *(places[:-2] or (None, None)), *states, *places[-2:],
            len(input_TD), int(lengths_S.max(initial=0)), self.threads,
        )  # fmt: skip
        with self.lock:
            wanted = self.forward(*given, None)
            if len(self.memory) < wanted:
                self.memory = torch.empty(wanted, dtype=torch.uint8)
            self.forward(*given, _pointer(self.memory))
        return output_TD

    def _keep(self, tensor: torch.Tensor) -> int:
        self.kept.append(tensor.contiguous())
        return self.kept[-1].data_ptr()

    def _tables(self, weights: Weights) -> Tables:
        """In memory that `Ends` shares."""
        tables = (weights.token, weights.segment, weights.position)
        places = (None if table is None else self._keep(table) for table in tables)
        return Tables(*places, self._norm(weights.norm))

    def _norm(self, norm: Pair) -> Any:
        return (ctypes.c_void_p * 2)(*(self._keep(self._filled(tensor, 0)) for tensor in norm))

    def _product(self, weight_NK: torch.Tensor, bias_N: torch.Tensor) -> Product:
        weight_NK, scale_N = self._filled(self._filled(weight_NK, 1), 0), None
        if self.precision == "int8":
            scale_N = weight_NK.abs().amax(dim=1) / 127
            scale_N[scale_N == 0] = 1
            weight_NK = (weight_NK / scale_N[:, None]).round()
        parts = [weight_NK.to(DTYPES[self.precision])] if self.parts == 1 else _parts(weight_NK)
        (outputs, inputs), values = weight_NK.shape, 4 // parts[0].itemsize
        panels_PNKNV = torch.stack(parts).view(
            len(parts), outputs // self.panel, self.panel, inputs // values, values
        )
        found = Product(
            self._keep(panels_PNKNV.permute(1, 0, 3, 2, 4)), self._keep(self._filled(bias_N, 0)),
            outputs=outputs, units=inputs // values,
        )  # fmt: skip
        if scale_N is not None:
            found.scale = self._keep(scale_N)
            found.offset = self._keep(-128 * weight_NK.sum(dim=1, dtype=torch.int32))
        return found

    def _filled(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        """The tensor with zeros behind it, to a multiple of what the C code steps by."""
        more = -tensor.shape[axis] % self.fill
        return pad(tensor, (0, 0) * (tensor.dim() - 1 - axis) + (0, more))


class PackedNative:
    """An `Encoder`: one of our families, its layers in C."""

    def __init__(self, weights: Weights, precision: str, threads: int, isa: str) -> None:
        self.config, self.dim = weights.config, weights.config.width
        self.ends = Ends(weights, "cpu")
        self.embeddings, self.pooler = self.ends.embeddings, self.ends.pooler
        self.layers = Layers(weights, precision, threads, isa)
        self.engine = {
            "device": "cpu",
            "precision": precision,
            "attention": f"native-{isa}",
            "path": "packed-native",
        }

    @torch.inference_mode()
    def encode(self, pack: Pack) -> Hidden:
        """The first and the last hidden states of every token of the pack."""
        if self.ends.project is not None:
            *_, input_TD = self.embeddings(pack)
            hidden_TD = self.layers(input_TD, pack.cu_S1)
        else:
            self._check(pack)
            input_TD = torch.empty(len(pack.ids_T), self.dim)
            hidden_TD = self.layers(input_TD, pack.cu_S1, pack)
        return Hidden(input_TD, hidden_TD, to_device(pack.cu_S1, "cpu"))

    def _check(self, pack: Pack) -> None:
        """ModelError for an id without a row in its table."""
        check_ids(pack.ids_T, self.config.vocab, "token id")
        check_ids(np.maximum(pack.lengths_S - 1, 0), len(self.ends.position), "position")
        if self.ends.segment is not None:
            second_S = (pack.second_S < pack.lengths_S).view(np.uint8)
            check_ids(second_S, len(self.ends.segment), "segment id")


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Three of bf16 whose sum is the tensor of fp32: each what the ones before leave of it."""
    found = []
    for _ in range(native.PARTS):
        found.append(tensor.to(torch.bfloat16))
        tensor = tensor - found[-1]
    return found


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
