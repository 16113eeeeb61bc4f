"""A long text as windows: several sequences that together hold every token of it.

The windows of a text are those of the reference's overflow: each takes as many tokens as there is
room for, and begins `stride` tokens before the one before it ends. Each begins with the prompt.

A window's characters are those of its tokens, and each token owns the text up to the next one:
white space belongs to the token before it, or to the first. So the first window begins at 0, the
last ends at the text's end, and with stride 0 each begins where the one before it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from embedmill.pipeline.batches import Windows


class Window(NamedTuple):
    """One window of one text."""

    text: int  # which of the texts
    number: int  # of the text's windows, from 0
    start: int  # code points of the text, without the prompt
    end: int
    ids: np.ndarray  # int32, prompt included, special tokens not
    tokens: int  # of the text alone


def cut_windows(
    text: int, ids: np.ndarray, offsets: Sequence[tuple[int, int]], prompt: int, size: int,
    room: int, stride: int,
) -> Iterator[Window]:  # fmt: skip
    """The windows of one text from its tokens; `prompt` and `size` are code points, prompt first.

    Tokens that lie in the prompt entirely are repeated in every window; a token that reaches into
    the text is the text's.
    """
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    inside = np.flatnonzero(ends > prompt)
    head = int(inside[0]) if len(inside) and prompt else 0
    head = min(head, room - stride - 1)
    body = len(ids) - head
    borders = np.append(np.maximum.accumulate(np.maximum(starts[head:] - prompt, 0)), size - prompt)
    borders[0] = 0
    step = room - head - stride
    first, number = 0, 0
    while True:
        last = min(first + room - head, body)
        both = np.concatenate([ids[:head], ids[head + first : head + last]])
        yield Window(text, number, int(borders[first]), int(borders[last]), both, last - first)
        if last == body:
            return
        first, number = first + step, number + 1


def mean_of_windows(vectors_SD: np.ndarray, windows: Windows) -> np.ndarray:
    """For each window the mean over its text's, weighted by their tokens: (S, D) -> (S, D) fp32.

    Summed in fp64 and in the order of the windows, so that a text of one window keeps its vector
    to the last bit, and no order of packs shows.
    """
    order_S = np.lexsort((windows.number_S, windows.text_S))
    text_S = windows.text_S[order_S]
    first_I = np.flatnonzero(np.diff(text_S, prepend=-1))
    weight_S = np.maximum(windows.weight_S[order_S], 1).astype(np.float64)
    sum_ID = np.add.reduceat(vectors_SD[order_S] * weight_S[:, None], first_I, axis=0)
    mean_ID = sum_ID / np.add.reduceat(weight_S, first_I)[:, None]
    _, input_S = np.unique(windows.text_S, return_inverse=True)
    return mean_ID.astype(np.float32)[input_S]


def windows_of(found: list[Window]) -> Windows:
    """The windows' places as arrays."""
    return Windows(
        np.array([w.text for w in found], np.int32),
        np.array([w.number for w in found], np.int32),
        np.array([(w.start, w.end) for w in found], np.int64).reshape(-1, 2),
        np.array([w.tokens for w in found], np.int32),
    )
