"""Which side of a pair loses tokens: the reference's three strategies, for S pairs at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Kept = tuple[np.ndarray, np.ndarray]  # how many tokens of A and of B stay, S each


def _longest_first(len_A: np.ndarray, len_B: np.ndarray, room_S: np.ndarray) -> Kept:
    """The longer side is cut to what the shorter leaves; if both are long, each gets a half.

    The odd token of two halves goes to the side that was longer, to B if they were equal.
    """
    short, long = np.minimum(len_A, len_B), np.maximum(len_A, len_B)
    half = room_S // 2
    fits = len_A + len_B <= room_S
    long_keep = np.where(fits, long, np.where(short > half, half + room_S % 2, room_S - short))
    short_keep = np.where(fits | (short <= half), short, half)
    a_longer = len_A > len_B
    return np.where(a_longer, long_keep, short_keep), np.where(a_longer, short_keep, long_keep)


def _only_first(len_A: np.ndarray, len_B: np.ndarray, room_S: np.ndarray) -> Kept:
    keep_A = np.clip(room_S - len_B, 0, len_A)
    return keep_A, np.minimum(len_B, room_S - keep_A)


def _only_second(len_A: np.ndarray, len_B: np.ndarray, room_S: np.ndarray) -> Kept:
    keep_B, keep_A = _only_first(len_B, len_A, room_S)
    return keep_A, keep_B


# Where the side that may lose tokens cannot lose enough, the reference fails; we cut the other.
TRUNCATION: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Kept]] = {
    "longest_first": _longest_first,
    "only_first": _only_first,
    "only_second": _only_second,
}
