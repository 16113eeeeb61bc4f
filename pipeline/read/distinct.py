"""Which rows of a unit feed the model the same thing: they share their sequences."""

from __future__ import annotations

from itertools import repeat, starmap

import numpy as np
import pyarrow as pa

from embedmill.pipeline.batches import Sequences, TextBatch
from embedmill.pipeline.identity import input_hash
from embedmill.schemas.columns import Status


def distinct(texts: TextBatch) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Input hash of each row, the first row of each distinct input, and each row's input or -1."""
    a, b = map(str.encode, texts.a), map(str.encode, texts.b or ())
    pairs = zip(a, b, strict=True) if texts.b is not None else zip(a, repeat(b""))
    joined = b"".join(starmap(input_hash, pairs))
    hash_R = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(texts.a), [None, pa.py_buffer(joined)]
    )
    rows = np.flatnonzero(texts.status_R == Status.OK)
    numbers = hash_R.take(rows).dictionary_encode().indices.to_numpy()  # as they come, from 0
    input_R = np.full(len(hash_R), -1, np.int32)
    input_R[rows] = numbers
    return hash_R, rows[np.unique(numbers, return_index=True)[1]], input_R


def inputs_of(sequences: Sequences, todo_I: np.ndarray) -> np.ndarray:
    """The input of each sequence, before they are sorted; the texts were those of `todo_I`."""
    windows = sequences.windows
    return todo_I[np.arange(len(sequences.cut_S)) if windows is None else windows.text_S]


def reject_long(
    sequences: Sequences,
    input_S: np.ndarray,
    input_R: np.ndarray,
    status_R: np.ndarray,
    all_cut: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's input and status, without those that are too long for any vector.

    These are the texts that the tokenizer refused; with `all_cut`, as long_text asks, all that
    lost text.
    """
    bad_S = sequences.cut_S != 0 if all_cut else sequences.cut_S < 0
    bad_I = np.zeros(int(input_R.max(initial=-1)) + 1, bool)
    bad_I[input_S[bad_S]] = True
    long_R = (input_R >= 0) & np.append(bad_I, False)[input_R]
    return np.where(long_R, -1, input_R), np.where(long_R, Status.TEXT_TOO_LONG, status_R)


def rows_of(input_S: np.ndarray, input_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, sequence) of every row that has an input, windows in order; two int32 arrays, V.

    The sequences of one input lie side by side.
    """
    inputs = max(input_R.max(initial=-1), input_S.max(initial=-1)) + 1
    count_I, first_I = np.bincount(input_S, minlength=inputs), np.zeros(inputs, np.int64)
    begins = np.flatnonzero(np.diff(input_S, prepend=-1))
    first_I[input_S[begins]] = begins
    rows = np.flatnonzero(input_R >= 0)
    count = count_I[input_R[rows]]
    within_V = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    sequence_V = np.repeat(first_I[input_R[rows]], count) + within_V
    return np.repeat(rows, count).astype(np.int32), sequence_V.astype(np.int32)
