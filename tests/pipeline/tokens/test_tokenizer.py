"""Ids, segments and positions equal the reference's to the last id; what is cut is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmill.pipeline.batches import Pack, Sequences
from embedmill.pipeline.load import check_segments
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.schemas.errors import ModelError

ANYWHERE = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HARD = [
    "a yellow sour fruit",
    "",
    " ",
    "\t\n\u2003",
    "Ünïcödé, naïve façade; ÀÉÎÕÜ ß ŉ ﬁ",
    "e\u0301 and é; a\u0308\u0327\u0301",
    "你好，世界！日本語のテキスト 한국어 문장",
    "مرحبا بالعالم שלום \u202eright to left\u202c",
    "🍋 👩‍👩‍👧‍👦 🇫🇷 ✊🏽",
    "tab\tnul\x00bell\x07del\x7f soft\u00adhyphen zero\u200bwidth bom\ufeff",
    "private \ue000 noncharacter \ufffe tag \U000e0041 replaced \ufffd",
    "[CLS] before [SEP] after [MASK] [PAD][UNK] [sep]",
    "x" * 300,
    "honey" + "-" * 50 + "bee's",
    "word " * 60,
    "ﷺ 한한한 ½ Ⅷ",
]
PAIRS = [(a, b) for a in HARD for b in [*HARD[:4], *HARD[5:12:2], HARD[-2]]]


@pytest.fixture(params=["tiny_bert", "minilm"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def reference(folder: Path, parse: bool = False) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = not parse
    return tokenizer


def ours(
    folder: Path, max_tokens: int = 128, truncation: str = "longest_first", parse: bool = False
) -> Tokenizer:
    return Tokenizer(folder, max_tokens=max_tokens, truncation=truncation, parse_specials=parse)


def rows(sequences: Sequences) -> list[tuple[list[int], list[int], list[int]]]:
    """(ids, segments, positions) of each sequence, as the encoder would get them."""
    pack = Pack(sequences.ids_T, sequences.cu_S1, sequences.second_S)
    flat = (pack.ids_T, pack.types_T, pack.positions_T)
    borders = pack.cu_S1[1:-1]
    return list(zip(*([x.tolist() for x in np.split(f, borders)] for f in flat), strict=True))


def row(encoding: tokenizers.Encoding) -> tuple[list[int], list[int], list[int]]:
    return encoding.ids, encoding.type_ids, list(range(len(encoding.ids)))


@pytest.mark.parametrize("parse", [False, True], ids=["text", "parse"])
def test_single_texts_equal_the_reference(folder, parse):
    expected_by = reference(folder, parse)
    expected_by.enable_truncation(128)
    got = rows(ours(folder, parse=parse).encode(HARD, None))
    assert [row(expected_by.encode(text)) for text in HARD] == got


@pytest.mark.parametrize("parse", [False, True], ids=["text", "parse"])
def test_pairs_equal_the_reference_and_an_empty_b_gives_the_single_form(folder, parse):
    expected_by = reference(folder, parse)
    expected_by.enable_truncation(128, strategy="longest_first")
    got = rows(ours(folder, parse=parse).encode(*map(list, zip(*PAIRS, strict=True))))
    expected = [row(expected_by.encode(a, b or None)) for a, b in PAIRS]
    assert expected == got


def test_ids_segments_and_mask_equal_transformers_with_padding_removed(folder):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    a, b = map(list, zip(*[(a, b) for a, b in PAIRS if b], strict=True))
    for texts, pairs in ((HARD, None), (a, b)):
        padded = theirs(
            texts, pairs, max_length=48, truncation="longest_first", padding=True, stride=0,
            return_token_type_ids=True, return_tensors="np",
        )  # fmt: skip
        expected = [
            (ids[mask == 1].tolist(), types[mask == 1].tolist())
            for ids, types, mask in zip(
                padded["input_ids"], padded["token_type_ids"], padded["attention_mask"], strict=True
            )
        ]
        got = rows(ours(folder, 48, parse=True).encode(texts, pairs))
        assert expected == [(ids, types) for ids, types, _ in got]


def test_special_token_words_are_text_unless_parsed(folder):
    special = reference(folder).token_to_id("[SEP]")
    text = "one [SEP] two"
    as_text, parsed = (
        ours(folder, parse=parse).encode([text], None).ids_T.tolist() for parse in (False, True)
    )
    assert as_text.count(special) == 1
    assert parsed.count(special) == 2


def test_a_b_of_white_space_is_encoded_as_it_is(folder):
    blank = rows(ours(folder).encode(["apple"], [" \t"]))[0]
    assert row(reference(folder).encode("apple", " \t")) == blank
    assert len(rows(ours(folder).encode(["apple"], [""]))[0][0]) + 1 == len(blank[0])


@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("max_tokens", [8, 9, 16, 33])
def test_every_truncation_equals_the_reference_where_the_reference_does_not_fail(
    folder, truncation, max_tokens
):
    expected_by = reference(folder)
    expected_by.enable_truncation(max_tokens, strategy=truncation)
    got = rows(ours(folder, max_tokens, truncation).encode(*map(list, zip(*PAIRS, strict=True))))
    compared = 0
    for (a, b), actual in zip(PAIRS, got, strict=True):
        assert len(actual[0]) <= max_tokens
        if not b:
            continue  # a single text is always cut at its own end, whatever the pairs' strategy
        try:
            expected = row(expected_by.encode(a, b))
        except Exception:  # the Rust side raises plain Exception: the side is too short to cut
            continue
        if expected[0] and len(expected[0]) <= max_tokens:
            assert expected == actual
            compared += 1
    assert compared > 30


@pytest.mark.parametrize(
    ("truncation", "a", "b", "kept"),
    [
        ("only_first", "apple bee", "sea " * 20, (0, 5)),
        ("only_second", "sea " * 20, "apple bee", (5, 0)),
    ],
)
def test_where_one_side_cannot_lose_enough_the_reference_fails_and_we_cut_the_other(
    tiny_bert, truncation, a, b, kept
):
    expected_by = reference(tiny_bert)
    expected_by.enable_truncation(8, strategy=truncation)
    with pytest.raises(Exception, match="[Tt]runcat"):
        expected_by.encode(a, b)
    sequences = ours(tiny_bert, 8, truncation).encode([a], [b])
    assert sequences.lengths_S[0] == 8
    assert kept == (sequences.second_S[0] - 2, 8 - sequences.second_S[0] - 1)


@ANYWHERE
@given(
    lengths=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=8),
    max_tokens=st.integers(8, 40),
)
def test_longest_first_equals_the_reference_at_every_length(tiny_bert, lengths, max_tokens):
    a, b = (["apple " * n for n in side] for side in zip(*lengths, strict=True))
    b = [text.replace("apple", "bee") for text in b]
    expected_by = reference(tiny_bert)
    expected_by.enable_truncation(max_tokens, strategy="longest_first")
    expected = [row(one) for one in expected_by.encode_batch(list(zip(a, b, strict=True)))]
    assert expected == rows(ours(tiny_bert, max_tokens).encode(a, b))


@pytest.mark.parametrize("max_tokens", [8, 11, 32])
def test_n_chars_cut_counts_the_code_points_after_the_last_kept_token(folder, max_tokens):
    tokenizer = reference(folder)
    tokenizer.enable_truncation(max_tokens)
    whole = reference(folder)
    expected = []
    for a, b in PAIRS:
        cut = 0
        kept = tokenizer.encode(a, b or None)
        full = whole.encode(a, b or None)
        for side, text in enumerate((a, b)):
            ends, all_ends = (
                [
                    end
                    for (_, end), n, special in zip(
                        e.offsets, e.sequence_ids, e.special_tokens_mask, strict=True
                    )
                    if n == side and not special
                ]
                for e in (kept, full)
            )
            if len(ends) < len(all_ends):
                cut += len(text) - (ends[-1] if ends else 0)
        expected.append(cut)
    sequences = ours(folder, max_tokens).encode(*map(list, zip(*PAIRS, strict=True)))
    assert expected == sequences.cut_S.tolist()
    assert any(expected) and not all(expected)


def test_a_text_that_fits_lost_nothing_even_with_white_space_behind_its_last_token(tiny_bert):
    assert ours(tiny_bert, 8).encode(["apple bee   \n "], None).cut_S.tolist() == [0]


def test_a_text_cut_inside_its_last_character_has_lost_something(minilm):
    """One Hangul syllable can be several tokens; 0 means that nothing was cut."""
    syllables = "한" * 4
    full = len(ours(minilm).encode([syllables], None).ids_T)
    assert full > 9, "the vocabulary must split a syllable for this test to say anything"
    assert ours(minilm, full - 1).encode([syllables], None).cut_S[0] > 0


def test_no_texts_give_no_sequences(tiny_bert):
    sequences = ours(tiny_bert).encode([], [])
    assert (sequences.ids_T.tolist(), sequences.cu_S1.tolist()) == ([], [0])


def test_a_batch_does_not_change_what_one_text_becomes(tiny_bert):
    """More texts than are tokenized at once, and each alone."""
    texts = [f"apple {n} bee" for n in range(2100)]
    tokenizer = ours(tiny_bert)
    alone = [rows(tokenizer.encode([text], None))[0] for text in texts[::100]]
    assert alone == rows(tokenizer.encode(texts, None))[::100]


@pytest.mark.parametrize("content", [None, "", "{}", '{"version": "1.0"}'])
def test_a_missing_or_broken_tokenizer_is_a_model_error_with_its_path(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        ours(tmp_path)
    assert str(tmp_path / "tokenizer.json") == caught.value.where


def test_a_tokenizer_that_puts_pairs_into_another_form_is_refused_for_pairs_alone(tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[S]": 2}, "a"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[S] $A", pair="$B [S]:1 $A", special_tokens=[("[S]", 2)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    form = ours(tmp_path).form
    assert ((2,), (), False) == (form.before, form.after, form.pairs)
    with pytest.raises(ModelError, match="TOKENIZER_UNSUPPORTED"):
        check_segments(ours(tmp_path), 2, True)
    check_segments(ours(tmp_path), 2, False)
