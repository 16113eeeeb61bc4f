"""Whether the layers in C are what they should be: once a process, before they are trusted.

Small random models go through them and through torch's operators. A compiler's error, a library of
another version in the cache or a wrong kernel shows as another state, and torch is used.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from embedmill.pipeline.encode.bert import PackedBert
from embedmill.pipeline.encode.cpu import ACTS, Layers
from embedmill.pipeline.encode.native import library as native
from embedmill.pipeline.encode.weights import Config, Layer, Weights
from embedmill.pipeline.model.architectures import FAMILIES

# precision -> how far from torch's a state may be, of those that are about 1 large
TOLERANCE = {"exact": 2e-5, "fast": 0.1, "int8": 0.2}
DTYPES = {"exact": torch.float32, "fast": torch.bfloat16, "int8": torch.bfloat16}
LENGTHS = (1, 2, 7, 16, 17, 50, 110)  # a block's border falls into the last
# No width is a multiple of a tile's 48 columns or of 16 lanes.
CONFIG = Config(
    vocab=8, width=60, layers=2, heads=2, inner=200, positions=128, types=2, eps=1e-12,
    act="gelu", table=60, first=0, buckets=0, family=FAMILIES["bert"],
)  # fmt: skip


def isa(weights: Weights, precision: str) -> str | None:
    """The instructions whose layers in C are there, are right, and know a model of this shape."""
    config = weights.config
    if (config.width // config.heads) % 2 or config.act not in ACTS:
        return None
    there = (isa for isa, known in native.NEEDED if known == precision)
    return next((isa for isa in there if works(isa, precision)), None)


@cache
def works(isa: str, precision: str) -> bool:
    """Whether this machine has the layers in C, and they give what torch's operators give."""
    if native.library(isa, precision) is None:
        return False
    cu_S1 = np.concatenate([[0], np.cumsum(LENGTHS)])
    for act in ("gelu", "gelu_new", "relu"):  # all that C knows
        weights = _random(replace(CONFIG, act=act, buckets=32 * (act == "gelu")))
        input_TD = torch.randn(int(cu_S1[-1]), CONFIG.width, generator=_seeded())
        theirs = PackedBert(weights, "cpu", DTYPES[precision], rounds=precision == "int8")
        with torch.inference_mode():
            want_TD = theirs.states(input_TD, cu_S1)
            got_TD = Layers(weights, precision, 2, isa)(input_TD, cu_S1)
        if not (got_TD - want_TD).abs().max() <= TOLERANCE[precision]:  # so that NaN fails
            return False
    return True


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _random(config: Config) -> Weights:
    """A model with random layers, large enough that nothing small can hide."""
    random, width, inner = _seeded(), config.width, config.inner

    def pair(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        weight = torch.randn(rows, columns, generator=random) / columns**0.5
        return weight, torch.randn(rows, generator=random) / 4

    def norm() -> tuple[torch.Tensor, torch.Tensor]:
        return 1 + pair(width, 1)[0][:, 0] / 4, pair(width, 1)[1]

    layers = tuple(
        Layer(pair(3 * width, width), pair(width, width), norm(), pair(inner, width),
              pair(width, inner), norm())
        for _ in range(config.layers)
    )  # fmt: skip
    bias = torch.randn(config.buckets, config.heads, generator=random) if config.buckets else None
    table = torch.zeros(config.vocab, width)
    return Weights(config, table, None, table, norm(), None, layers, bias, None)
