"""Sorts a unit's sequences by length and cuts them into packs under a token budget. Pure numpy.

Equal lengths come to lie side by side, which is what attention without padding wants on a CPU.
The order is stable and a pack never crosses a unit, so the packs of a unit depend on nothing else.
"""

from __future__ import annotations

import numpy as np

from embedmill.pipeline.batches import Sequences


def sort_by_length(
    sequences: Sequences, which: np.ndarray | None = None
) -> tuple[Sequences, np.ndarray]:
    """These sequences, or all, in rising length, and the new place of each of them (int32)."""
    which = np.arange(len(sequences.cut_S)) if which is None else which
    order = np.argsort(sequences.lengths_S[which], kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return sequences.take(which[order]), place


def sort_used(sequences: Sequences, sequence_V: np.ndarray) -> tuple[Sequences, np.ndarray]:
    """The sequences that any row has, in rising length, and the new number of each one of V.

    Numbers beyond the sequences move along.
    """
    here_V = sequence_V < len(sequences.cut_S)
    used_S, at_V = np.unique(sequence_V[here_V], return_inverse=True)
    moved_V = sequence_V - np.int32(len(sequences.cut_S) - len(used_S))
    sequences, place_S = sort_by_length(sequences, used_S)
    moved_V[here_V] = place_S[at_V]
    return sequences, moved_V


def pack(cu_S1: np.ndarray, pack_tokens: int) -> np.ndarray:
    """Offsets of packs into the sequences, P + 1: as many whole sequences as the budget holds.

    A sequence longer than the budget is a pack of its own.
    """
    cu_P1 = [0]
    while cu_P1[-1] < len(cu_S1) - 1:
        first = cu_P1[-1]
        last = int(np.searchsorted(cu_S1, cu_S1[first] + pack_tokens, side="right")) - 1
        cu_P1.append(max(last, first + 1))
    return np.array(cu_P1, np.int64)
