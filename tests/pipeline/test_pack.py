"""Sorting loses no sequence, and packs hold each one once within the budget."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.pipeline.batches import Sequences
from embedmill.pipeline.pack import pack, sort_by_length, sort_used
from embedmill.pipeline.read.distinct import rows_of

LENGTHS = st.lists(st.integers(1, 40), max_size=60)
QUICK = settings(deadline=None, max_examples=150)


def sequences(lengths: list[int]) -> Sequences:
    """Sequences whose every id tells the sequence and the place that it is from."""
    ids = [1000 * s + i for s, n in enumerate(lengths) for i in range(n)]
    cu_S1 = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    half = np.array([n // 2 for n in lengths], np.int32)
    return Sequences(np.array(ids, np.int32), cu_S1, half, np.arange(len(lengths), dtype=np.int64))


@QUICK
@given(LENGTHS)
def test_sorting_is_by_rising_length_stable_and_can_be_undone(lengths):
    before = sequences(lengths)
    after, place_S = sort_by_length(before)
    assert sorted(lengths) == after.lengths_S.tolist()
    assert sorted(range(len(lengths)), key=lambda s: lengths[s]) == after.cut_S.tolist()
    for old, new in enumerate(place_S):
        a, b = before.cu_S1[old : old + 2]
        c, d = after.cu_S1[new : new + 2]
        assert before.ids_T[a:b].tolist() == after.ids_T[c:d].tolist()
        assert before.second_S[old] == after.second_S[new]
        assert before.cut_S[old] == after.cut_S[new]


@QUICK
@given(LENGTHS, st.integers(1, 100))
def test_each_sequence_is_in_one_pack_and_only_a_longer_one_exceeds_the_budget(lengths, budget):
    cu_S1 = sequences(lengths).cu_S1
    cu_P1 = pack(cu_S1, budget).tolist()
    assert cu_P1[0] == 0
    assert cu_P1[-1] == len(lengths)
    packs = [lengths[a:b] for a, b in zip(cu_P1[:-1], cu_P1[1:], strict=True)]
    assert all(packs), "a pack is never empty"
    assert all(sum(one) <= budget or len(one) == 1 for one in packs)
    for one, following in zip(packs[:-1], packs[1:], strict=True):
        assert sum(one) + following[0] > budget, "a pack takes as many as the budget holds"


def test_no_sequences_make_no_packs():
    after, place_S = sort_by_length(sequences([]))
    assert (after.ids_T.tolist(), place_S.tolist()) == ([], [])
    assert pack(after.cu_S1, 8).tolist() == [0]


@QUICK
@given(st.lists(st.integers(1, 9), max_size=20), st.integers(0, 5), st.data())
def test_each_row_keeps_its_sequence_when_the_unused_go(lengths, reused, data):
    """Whether it is encoded, or comes behind the sequences because its vector is reused."""
    before, count = sequences(lengths), len(lengths) + reused
    inputs = st.integers(-1, count - 1)
    input_R = np.array(data.draw(st.lists(inputs, max_size=30)), np.int32)
    input_S = np.array(data.draw(st.permutations(range(count))), np.int64)
    row_V, sequence_V = rows_of(input_S, input_R)
    assert np.flatnonzero(input_R >= 0).tolist() == row_V.tolist()
    assert input_R[input_R >= 0].tolist() == input_S[sequence_V].tolist()

    after, moved_V = sort_used(before, sequence_V)

    encoded = sequence_V < len(lengths)
    assert sorted(set(sequence_V[encoded])) == sorted(after.cut_S.tolist())
    assert sequence_V[encoded].tolist() == after.cut_S[moved_V[encoded]].tolist()
    beyond = sequence_V[~encoded] - len(lengths)
    assert beyond.tolist() == (moved_V[~encoded] - len(after.cut_S)).tolist()
    assert sorted(after.lengths_S.tolist()) == after.lengths_S.tolist()
