"""The quantize room: finished fp32 vectors -> bytes or bits, on the same device.

The formulas are those of sentence-transformers' quantize_embeddings, with ranges that are frozen
for the whole corpus: a range taken from each batch would give every batch another scale.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedmill.pipeline.vectors.ranges import steps

if TYPE_CHECKING:
    from embedmill.schemas.plan import VectorColumn


@torch.inference_mode()
def quantize(
    vectors_SD: torch.Tensor, column: VectorColumn, range_2D: np.ndarray | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What is stored of the vectors, and of an int8 column how many values each had to clip, (S,).

    int8: (S, D) int8; binary: (S, D / 8) uint8; all other columns stay as they are.
    """
    if column.kind == "int8":
        assert range_2D is not None, "an int8 column has its ranges in the plan. This is a bug."
        return to_int8(vectors_SD, range_2D)
    return (to_bits(vectors_SD) if column.kind == "binary" else vectors_SD), None


@torch.inference_mode()
def to_int8(vectors_SD: torch.Tensor, range_2D: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """floor((x - min) / step) - 128 with step = (max - min) / 255; a value outside is clipped.

    Rounds down, as the reference does: a code stands for [min + step * n, min + step * (n + 1)).
    """
    low_D, high_D, step_D = _on_device(range_2D.tobytes(), range_2D.shape[1], vectors_SD.device)
    outside_S = ((vectors_SD < low_D) | (vectors_SD > high_D)).sum(dim=1)
    codes_SD = torch.floor((vectors_SD - low_D) / step_D).clamp(0, 255) - 128
    return codes_SD.to(torch.int8), outside_S


@functools.lru_cache(maxsize=64)
def _on_device(range_2D: bytes, dim: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Least and greatest value and the step of each dimension; copied once, since it waits."""
    range_2D = np.frombuffer(range_2D, np.float32).reshape(2, dim)
    low_D, step_D = steps(range_2D)
    step_D = np.where(step_D == 0, np.float32(1), step_D)  # of a constant dimension: any will do
    return tuple(torch.tensor(array, device=device) for array in (low_D, range_2D[1], step_D))


@torch.inference_mode()
def to_bits(vectors_SD: torch.Tensor) -> torch.Tensor:
    """A bit a value, set where it is above 0: (S, D) -> (S, D / 8) uint8, as numpy.packbits."""
    place = torch.arange(7, -1, -1, dtype=torch.uint8, device=vectors_SD.device)
    bits = (vectors_SD > 0).view(len(vectors_SD), -1, 8).to(torch.uint8)
    return (bits << place).sum(dim=2, dtype=torch.uint8)
