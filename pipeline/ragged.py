"""Stretches of a flat axis: many short arrays as one, and where each of them begins."""

from __future__ import annotations

import numpy as np


def offsets(lengths: np.ndarray) -> np.ndarray:
    """Where stretches of these lengths begin, one after the other, and where the last ends."""
    cu = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=cu[1:])
    return cu


def places(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """first[0] .. + lengths[0], first[1] .. + lengths[1], …, on one axis."""
    cu = offsets(lengths)
    return np.repeat(first - cu[:-1], lengths) + np.arange(cu[-1])
