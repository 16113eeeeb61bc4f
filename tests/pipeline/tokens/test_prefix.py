"""A beginning of a huge text gives the tokens of the whole, to the last id and code point."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

import embedmill.pipeline.tokens.tokenizer
from embedmill.pipeline.tokens.prefix import Prefixes
from embedmill.pipeline.tokens.tokenizer import REFUSED, Tokenizer

MANY = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ALPHABETS = {
    "words": "ab e\u0301éÉ. ",
    "marks": "a\u0301\u0327\u0308\u0345 \u200d\u200b\ufe0f",
    "chinese": "你好\u3400\u9fff\ufa6e\U00020000日 a",
    "controls": "a\x00\x01\x0b\x0c\x1c\x85\ufffd\ufeff\u00ad \t\n\r",
    "spaces": "a \u00a0\u1680\u2003\u2028\u2029\u202f\u3000\u180e\u2060",
    "signs": "a-_.,!$+^`|~¿…、。＝\u0300[]",
    "letters": "aZ9İıßŉﬁΣς한각\u1100\u1161ﷺ½",
    "emoji": "👩\u200d🇫🇷✊🏽 a",
}
SPELLED = ["[SEP]", "[CLS]", "[MASK]", "##s", "[UNK]"]
RUNS = ["x" * 99, "x" * 100, "x" * 101, "x" * 102, "Z9" * 300, "a" * 103 + "\u0301", "\x00" * 300]


@st.composite
def texts(draw) -> str:
    """Pieces of adversarial alphabets, words of special tokens, and endless words."""
    alphabet = draw(st.sampled_from([*ALPHABETS.values(), "".join(ALPHABETS.values())]))
    piece = st.text(alphabet, max_size=30) | st.sampled_from([*SPELLED, *RUNS])
    return "".join(draw(st.lists(piece, max_size=25)))


@pytest.fixture(params=["tiny_bert", "minilm"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are cut after a character for each token of room: short texts are huge ones."""
    monkeypatch.setattr(embedmill.pipeline.tokens.tokenizer, "HEAD_CHARS", 1)
    monkeypatch.setattr(embedmill.pipeline.tokens.tokenizer, "PIECE_CHARS", 7)


def both(
    folder: Path, max_tokens: int, parse: bool, truncation: str = "longest_first"
) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """Ours, and the reference that sees whole texts."""
    ours, theirs = loaded(folder, parse)
    theirs.enable_truncation(max_tokens, strategy=truncation)
    ours.max_tokens, ours.truncation = max_tokens, truncation
    return ours, theirs


@functools.cache
def loaded(folder: Path, parse: bool) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    ours = Tokenizer(folder, max_tokens=8, truncation="longest_first", parse_specials=parse)
    return ours, fresh(folder, parse)


def fresh(folder: Path, parse: bool = False) -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    theirs.encode_special_tokens = not parse
    return theirs


def left_out(encoding: tokenizers.Encoding, text: str, side: int) -> int:
    """Code points of a side after its last kept token."""
    ends = [
        end
        for (_, end), n, special in zip(
            encoding.offsets, encoding.sequence_ids, encoding.special_tokens_mask, strict=True
        )
        if n == side and not special
    ]
    return max(1, len(text) - (ends[-1] if ends else 0))


@pytest.mark.parametrize("parse", [False, True], ids=["text", "parse"])
@MANY
@given(text=texts(), max_tokens=st.integers(8, 24))
def test_single_texts(folder, early, parse, text, max_tokens):
    ours, theirs = both(folder, max_tokens, parse)
    whole = theirs.encode(text)

    got = ours.encode([text], None)

    assert whole.ids == got.ids_T.tolist()
    is_cut = bool(whole.overflowing)
    assert bool(got.cut_S[0]) == is_cut
    if is_cut and not parse:  # a parsed special token is not told from those around the text
        assert left_out(whole, text, 0) == got.cut_S[0]


@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
@MANY
@given(a=texts(), b=texts(), max_tokens=st.integers(8, 20))
def test_pairs(folder, early, truncation, a, b, max_tokens):
    ours, theirs = both(folder, max_tokens, False, truncation)
    try:
        whole = theirs.encode(a, b or None)
    except Exception:  # the reference cannot cut the side it may cut
        return

    got = ours.encode([a], [b])

    assert whole.ids == got.ids_T.tolist()
    first = whole.type_ids.index(1) if b else len(got.ids_T)
    assert first == got.second_S[0]


@MANY
@given(text=texts(), size=st.integers(1, 40))
def test_pieces_are_the_text(folder, text, size):
    ours, theirs = both(folder, 8, False)
    theirs.no_truncation()
    assert len(theirs.encode(text, add_special_tokens=False).ids) == ours.count(text)
    pieces = list(Prefixes(theirs).pieces(text, size))
    ids = [i for p in pieces for i in theirs.encode(p, add_special_tokens=False).ids]
    assert theirs.encode(text, add_special_tokens=False).ids == ids


def test_a_head_is_shorter_than_a_text_that_can_be_cut(folder):
    prefixes = Prefixes(fresh(folder))
    for text in ("apple bee " * 1000, "你好" * 5000, "a-" * 5000, "x" * 10_000, "好" + "x" * 9999):
        head = prefixes.head(text, 100)
        assert len(head.text) < 300, text[:10]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "normalizer", normalizers.NFKC()),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda t: t.add_tokens([AddedToken("sour fruit", normalized=False)]),
        lambda t: t.add_tokens([AddedToken("你", normalized=True)]),
    ],
    ids=["normalizer", "pre-tokenizer", "token-with-a-space", "token-with-spaces-once-normalized"],
)
def test_what_is_not_known_to_be_exact_stays_whole(tiny_bert, change):
    tokenizer = fresh(tiny_bert)
    change(tokenizer)
    text = "apple, 你 sour fruit " * 100
    head = Prefixes(tokenizer).head(text, 10)
    assert (head.text, head.whole) == (text, True)


def test_an_added_token_is_not_cut(tiny_bert):
    tokenizer = fresh(tiny_bert)
    tokenizer.add_tokens(["bee-line", "x" * 150])
    prefixes = Prefixes(tokenizer)
    assert prefixes.head("bee-line" * 10 + " " + "x" * 900, 4).text == "bee-line" * 10


HUGE = {
    "words": "yellow sour fruit, ",
    "chinese": "你好世界",
    "one-word": "x",
    "punctuation": "-",
    "79910": None,
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_huge_text_costs_what_its_kept_tokens_cost(minilm, kind):
    """Ten million characters; whole, the reference needs 5 to 30 seconds."""
    text = "word " * 15_982 if kind == "79910" else HUGE[kind] * (10_000_000 // len(HUGE[kind]))
    tokenizer = both(minilm, 256, False)[0]
    tokenizer.encode(["warm"], None)
    began = time.process_time()
    got = tokenizer.encode([text], None)
    pairs = tokenizer.encode([text, "a b", text], ["bee", text, text[:20_000]])
    seconds = time.process_time() - began
    assert seconds < 3.0
    if kind == "one-word":
        assert (got.lengths_S[0], got.cut_S[0]) == (3, 0)
        assert [5, 6, 5] == pairs.lengths_S.tolist()
    else:
        assert [256] * 3 == pairs.lengths_S.tolist()
        assert left_out(both(minilm, 256, False)[1].encode(text[:5000]), text, 0) == got.cut_S[0]


def test_texts_that_must_be_whole_are_refused_above_a_limit(tiny_bert, monkeypatch):
    monkeypatch.setattr(embedmill.pipeline.tokens.tokenizer, "MAX_CHARS", 5000)
    tokenizer = both(tiny_bert, 16, False)[0]
    joined = "é" * 5001  # no border, and letters that are not counted on
    got = tokenizer.encode(["apple", joined, "apple " * 2000, "é" * 5000], None)
    assert [0, REFUSED] == got.cut_S[:2].tolist()
    assert got.cut_S[2] > 0 and got.cut_S[3] == 0
    assert np.array_equal([3, 2, 16, 3], got.lengths_S)
    assert [REFUSED, 0] == tokenizer.encode(["apple"] * 2, [joined, ""]).cut_S.tolist()
    assert [REFUSED, 0] == tokenizer.windows("", ["apple " * 2000, "apple"], 0).cut_S.tolist()
