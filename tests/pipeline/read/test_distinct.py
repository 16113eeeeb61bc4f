"""Equal inputs share one sequence, and what tells inputs and vectors apart is exact."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.pipeline.batches import TextBatch
from embedmill.pipeline.identity import input_hash
from embedmill.pipeline.read.distinct import distinct
from embedmill.pipeline.vectors.unit import _distinct_rows
from embedmill.schemas.plan import Unit

MANY = settings(deadline=None, max_examples=200)
WORDS = st.sampled_from(["", "a", "b", "é", "ab"])
ROWS = st.lists(st.tuples(WORDS, WORDS, st.sampled_from([0, 0, 0, 2])), max_size=30)


@MANY
@given(rows=ROWS, pair=st.booleans())
def test_rows_share_an_input_if_both_texts_are_equal_and_the_first_of_them_stands_for_it(
    rows, pair
):
    a, b, status = map(list, zip(*rows, strict=True)) if rows else ([], [], [])
    texts = TextBatch(
        Unit("", ()), pa.table({}), a, b if pair else None, np.array(status, np.uint8)
    )

    hash_R, first_I, input_R = distinct(texts)

    inputs = list(zip(a, b if pair else [""] * len(a), strict=True))
    assert [input_hash(one.encode(), other.encode()) for one, other in inputs] == hash_R.to_pylist()
    going = [row for row in range(len(rows)) if status[row] == 0]
    first = {}
    for row in going:
        first.setdefault(inputs[row], row)
    assert list(first.values()) == first_I.tolist()
    assert [row in going for row in range(len(rows))] == (input_R >= 0).tolist()
    assert [first[inputs[row]] for row in going] == first_I[input_R[going]].tolist()


def test_the_input_hash_stays_what_parts_already_hold():
    assert input_hash(b"", b"").hex() == "0a88111852095cae045340ea1f0b2799"
    assert input_hash("naïve".encode(), b"").hex() == "d6238f99f238c3938216591b403ea0c8"
    assert input_hash(b"a", b"b").hex() == "f70119610dd857bb851ae81bee980e51"
    assert input_hash(b"ab", b"") != input_hash(b"a", b"b")


@MANY
@given(st.integers(1, 4), st.lists(st.integers(0, 6), max_size=4), st.integers(0, 99))
def test_vectors_are_told_apart_by_their_last_bit(width, sizes, seed):
    chance = np.random.default_rng(seed)
    values = np.array([0.0, -0.0, 1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    parts = [values[chance.integers(0, 4, (size, width))] for size in sizes]
    rows = {row.tobytes() for part in parts for row in part}
    assert len(rows) == _distinct_rows(parts)
