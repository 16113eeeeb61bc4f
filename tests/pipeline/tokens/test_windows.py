"""Windows are the reference's overflow to the last id, and together they are the text."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmill.pipeline.batches import Sequences, Windows
from embedmill.pipeline.pack import sort_by_length
from embedmill.pipeline.read.distinct import inputs_of, reject_long, rows_of
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.pipeline.tokens.windows import mean_of_windows
from embedmill.schemas.columns import Status

MANY = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text("ab é. e\u0301你好\x00\t한[] yellow", max_size=120) | st.lists(
    st.sampled_from(["apple", "[SEP]", "honey-bee", "x" * 120, " ", "日本"]), max_size=40
).map(" ".join)


@pytest.fixture(params=["tiny_bert", "minilm"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@functools.cache
def loaded(folder: Path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.encode_special_tokens = True
    ours = Tokenizer(folder, max_tokens=8, truncation="longest_first", parse_specials=False)
    return ours, theirs


def both(folder: Path, max_tokens: int, stride: int) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    ours, theirs = loaded(folder)
    ours.max_tokens = max_tokens
    theirs.enable_truncation(max_tokens, stride=stride)
    return ours, theirs


def ids(sequences: Sequences) -> list[list[int]]:
    return [part.tolist() for part in np.split(sequences.ids_T, sequences.cu_S1[1:-1])]


@MANY
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), max_tokens=st.integers(8, 20), data=st.data())
def test_ids_are_the_references_overflow(folder, texts, max_tokens, data):
    stride = data.draw(st.integers(0, max_tokens - 3))
    ours, theirs = both(folder, max_tokens, stride)
    got = ours.windows("", texts, stride)
    encodings = [theirs.encode(text) for text in texts]
    windows = [[e.ids, *(more.ids for more in e.overflowing)] for e in encodings]
    assert [one for some in windows for one in some] == ids(got)
    numbers = [(n, i) for n, some in enumerate(windows) for i in range(len(some))]
    assert numbers == list(
        zip(got.windows.text_S.tolist(), got.windows.number_S.tolist(), strict=True)
    )
    assert not got.cut_S.any()


@MANY
@given(text=TEXTS, max_tokens=st.integers(8, 20), data=st.data())
def test_spans_together_are_the_text(folder, text, max_tokens, data):
    stride = data.draw(st.integers(0, max_tokens - 3))
    got = both(folder, max_tokens, stride)[0].windows("", [text], stride)
    start, end = got.windows.span_S2.T.tolist()
    assert (start[0], end[-1]) == (0, len(text))
    assert start == sorted(start) and end == sorted(end)
    for before, after in zip(end, start[1:], strict=False):
        assert after == before if stride == 0 else after <= before


def test_a_text_that_fits_is_what_truncation_makes_of_it(folder):
    ours = both(folder, 16, 0)[0]
    texts = ["", " ", "yellow sour fruit", "a " * 14]
    assert ids(ours.encode(texts, None)) == ids(ours.windows("", texts, 3))
    prompted = [f"query: {text}" for text in texts[:3]]
    assert ids(ours.encode(prompted, None)) == ids(ours.windows("query: ", texts[:3], 3))


def test_every_window_begins_with_the_prompt(folder):
    ours, theirs = both(folder, 12, 2)
    theirs.no_truncation()
    text = "apple bee river stone " * 5
    got = ours.windows("sun: ", [text], 2)
    prompt = theirs.encode("sun: ", add_special_tokens=False).ids
    body = theirs.encode(text, add_special_tokens=False).ids
    room = 12 - 2 - len(prompt)
    starts = range(0, len(body) - 2, room - 2)
    expected = [[*prompt, *body[at : at + room]] for at in starts]
    assert expected == [one[1:-1] for one in ids(got)]
    assert [len(one) - len(prompt) for one in expected] == got.windows.weight_S.tolist()
    assert (0, len(text)) == (got.windows.span_S2[0, 0], got.windows.span_S2[-1, 1])


def test_a_token_across_prompt_and_text_is_of_the_text(tiny_bert):
    ours = both(tiny_bert, 8, 0)[0]
    got = ours.windows("sun rain", ["s apple bee tea sea cow"], 0)
    tokens = [ours.tokens(np.array(one)) for one in ids(got)]
    assert ["[CLS]", "sun", "rain", "##s", "apple", "bee", "tea", "[SEP]"] == tokens[0]
    assert ["[CLS]", "sun", "rain", "sea", "cow", "[SEP]"] == tokens[1]
    assert [[0, 16], [16, 23]] == got.windows.span_S2.tolist()


def test_rows_with_equal_input_share_windows_and_keep_their_order():
    windows = Windows(
        np.array([0, 1, 1, 1, 2], np.int32),
        np.array([0, 0, 1, 2, 0], np.int32),
        np.zeros((5, 2), np.int64),
        np.ones(5, np.int32),
    )
    cu = np.array([0, 3, 12, 21, 24, 29])
    sequences = Sequences(np.arange(29), cu, np.diff(cu), np.zeros(5, np.int64), windows)
    given = np.array([1, -1, 0, 1, 2], np.int32)
    row_V, sequence_V = rows_of(inputs_of(sequences, np.arange(3)), given)
    assert [0, 0, 0, 2, 3, 3, 3, 4] == row_V.tolist()
    assert [1, 2, 3, 0, 1, 2, 3, 4] == sequence_V.tolist()
    moved, place_S = sort_by_length(sequences)
    for old, new in enumerate(place_S):
        assert windows.number_S[old] == moved.windows.number_S[new]
        assert cu[old] == moved.ids_T[moved.cu_S1[new]]


def test_a_refused_text_rejects_its_rows_and_all_that_share_it():
    sequences = Sequences(np.arange(9), np.array([0, 3, 6, 9]), np.full(3, 3), np.array([0, -1, 7]))
    status = np.zeros(4, np.uint8)
    long = Status.TEXT_TOO_LONG
    given = np.array([1, 0, 2, 1], np.int32)
    inputs = inputs_of(sequences, np.arange(3))
    assert [long, 0, 0, long] == reject_long(sequences, inputs, given, status, False)[1].tolist()
    assert [-1, 0, -1, -1] == reject_long(sequences, inputs, given, status, True)[0].tolist()
    later = inputs_of(sequences, np.array([0, 2, 4]))  # the others have their vectors already
    given = np.array([1, 0, 2, 3, 4], np.int32)
    assert [0, 0, long, 0, 0] == reject_long(sequences, later, given, np.zeros(5), False)[
        1
    ].tolist()


def test_the_mean_weighs_tokens_and_one_window_keeps_its_bits():
    vectors = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    windows = Windows(
        np.array([7, 2, 7, 2], np.int32), np.array([1, 0, 0, 1], np.int32), np.zeros((4, 2)),
        np.array([1, 5, 3, 2], np.int32),
    )  # fmt: skip
    got = mean_of_windows(vectors, windows)
    np.testing.assert_allclose((vectors[0] + 3 * vectors[2]) / 4, got[0], rtol=1e-6)
    np.testing.assert_allclose((5 * vectors[1] + 2 * vectors[3]) / 7, got[1], rtol=1e-6)
    assert np.array_equal(got[0], got[2]) and np.array_equal(got[1], got[3])
    alone = Windows(np.arange(4), np.zeros(4), np.zeros((4, 2)), np.array([0, 3, 7, 11]))
    assert np.array_equal(vectors, mean_of_windows(vectors, alone))
