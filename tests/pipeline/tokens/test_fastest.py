"""Every way to ids gives the reference's, and nanotoken gives none before and unless it does."""

from __future__ import annotations

import functools
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, BertWordPieceTokenizer, normalizers, pre_tokenizers

import embedmill.pipeline.tokens.fastest
import embedmill.pipeline.tokens.wordwise
from embedmill.pipeline.tokens.fastest import CACHE_ENTRIES, equal, fastest, proof_texts
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.pipeline.tokens.wordwise import Words, text_by_text, word_by_word
from embedmill.schemas.errors import ModelError

MANY = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCRIPTS = st.sampled_from(
    [
        "ab cd. \n", "éÉe\u0301ßİıŉﬁΣς ", "Привет йи\u0306 ", "مرحبا ﷺ\u064e ", "שלום\u05b8 ",
        "नमस्ते\u094d। ", "สวัสดีำ ", "Tiếng Việt ", "გამარჯობაᲐ ", "你好世界\u3400\U00020000，。",
        "日本語カタカナｶが ", "한국어각\u1112\u1161\u11ab ", "🍋👩\u200d🇫🇷✊🏽\ufe0f ",
        "a\x00\x0b\x0c\x1c\x85\xa0\u2028\u3000\ufeff\t\r ", "a-_.,!$^`|~[]#",
    ]
)  # fmt: skip
PIECES = st.sampled_from(["[SEP]", "[sep]", "##s", "[UNK]", "x" * 100, "é" * 101, "unaffable", " "])
TEXTS = st.lists(SCRIPTS.flatmap(lambda s: st.text(s, max_size=20)) | PIECES | st.text(max_size=8))


def bert(**options) -> tokenizers.Tokenizer:
    """A small WordPiece of several scripts, in BERT's form."""
    letters = "abcdefghijklmnopqrstuvwxyzéßABСПр你好日한ᄒ。,.-[]#中"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, "the", "un", "##aff", "##able"]
    words += [f"##{letter}" for letter in letters]
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys(words))}
    content = BertWordPieceTokenizer(vocabulary, **options).to_str()
    return as_text(tokenizers.Tokenizer.from_str(content))


def as_text(tokenizer: tokenizers.Tokenizer, parse: bool = False) -> tokenizers.Tokenizer:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = not parse
    return tokenizer


@functools.cache
def loaded(name: str, folder: Path) -> tokenizers.Tokenizer:
    """Tokenizers that differ in everything that BERT's can differ in."""
    kinds = {
        "uncased": {},
        "cased": {"lowercase": False},
        "accents": {"strip_accents": False},
        "cased-stripped": {"lowercase": False, "strip_accents": True},
        "no-chinese": {"handle_chinese_chars": False},
        "unclean": {"clean_text": False},
    }
    if name in kinds:
        return bert(**kinds[name])
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if name == "lowered":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), tokenizer.normalizer])
    return as_text(tokenizer, parse=name == "minilm-parse")


KINDS = ["uncased", "cased", "accents", "cased-stripped", "no-chinese", "unclean"]
ALL = [*KINDS, "minilm", "minilm-parse", "lowered"]


@pytest.fixture
def no_nanotoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nanotoken", None)
    embedmill.pipeline.tokens.fastest._proved.cache_clear()
    yield
    embedmill.pipeline.tokens.fastest._proved.cache_clear()


@pytest.mark.parametrize("name", ALL)
@MANY
@given(texts=st.lists(TEXTS.map("".join), max_size=6))
def test_every_way_gives_the_references_ids(minilm, name, texts):
    pytest.importorskip("nanotoken")
    tokenizer = loaded(name, minilm)
    name, fast = fastest(tokenizer)
    assert name == "nanotoken"
    assert equal(fast, tokenizer, texts)
    assert equal(word_by_word(tokenizer), tokenizer, texts)


@pytest.mark.parametrize("name", ALL)
def test_every_way_gives_the_references_ids_for_all_that_is_in_the_proof(minilm, name):
    tokenizer = loaded(name, minilm)
    texts = proof_texts(tokenizer)
    assert equal(word_by_word(tokenizer), tokenizer, texts)
    assert equal(fastest(tokenizer)[1], tokenizer, texts[::-1])


@pytest.mark.parametrize("part", [61, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["fastest", "word_by_word"])
def test_every_way_gives_the_references_ids_for_real_texts(minilm, data_dir, way, part):
    """Each string column of each file: 12 languages, code, names, URLs; a part of it, and all."""
    tokenizer = loaded("minilm", minilm)
    ids = word_by_word(tokenizer) if way == "word_by_word" else fastest(tokenizer)[1]
    for path in sorted(data_dir.rglob("*.parquet")):
        table = pq.read_table(path)
        for field in table.schema:
            if field.type in (pa.string(), pa.large_string()):
                texts = [t for t in table[field.name].unique().to_pylist()[::part] if t]
                for first in range(0, len(texts), 4096):
                    assert equal(ids, tokenizer, texts[first : first + 4096]), (path, field.name)


@pytest.mark.parametrize("parse", [False, True], ids=["text", "parse"])
@MANY
@given(
    pairs=st.lists(st.tuples(TEXTS.map("".join), TEXTS.map("".join)), min_size=1, max_size=4),
    max_tokens=st.integers(8, 20),
)
def test_sequences_do_not_depend_on_the_way(minilm, parse, pairs, max_tokens):
    pytest.importorskip("nanotoken")
    ours = tokenizer_of(minilm, parse)
    a, b = map(list, zip(*pairs, strict=True))
    ours.max_tokens, found = max_tokens, []
    raw = ours._tokenizer
    for ids in (fastest(raw)[1], word_by_word(raw), text_by_text(raw)):
        ours._ids = ids
        for sequences in (ours.encode(a, b), ours.encode(a, None), ours.windows("a: ", a, 2)):
            found.append([sequences.ids_T, sequences.cu_S1, sequences.second_S, sequences.cut_S])
    for n in range(3):
        for other in (n + 3, n + 6):
            assert all(np.array_equal(*two) for two in zip(found[n], found[other], strict=True))


@functools.cache
def tokenizer_of(folder: Path, parse: bool) -> Tokenizer:
    return Tokenizer(folder, max_tokens=8, truncation="longest_first", parse_specials=parse)


def altered(content: str, *change: str) -> str:
    """The tokenizer with another value at the end of a path."""
    settings = json.loads(content)
    *path, key, value = change
    inner = settings
    for name in path:
        inner = inner[name]
    assert json.loads(value) != inner[key]
    inner[key] = json.loads(value)
    return json.dumps(settings)


ALTERED = [
    ("normalizer", "lowercase", "false"),
    ("normalizer", "strip_accents", "false"),
    ("normalizer", "handle_chinese_chars", "false"),
    ("normalizer", "clean_text", "false"),
    ("model", "max_input_chars_per_word", "99"),
    ("model", "max_input_chars_per_word", "101"),
    ("model", "unk_token", '"[MASK]"'),
    ("model", "continuing_subword_prefix", '"#"'),
    ("model", "vocab", "##ably", "7"),
    ("pre_tokenizer", "type", '"WhitespaceSplit"'),
]


@pytest.mark.parametrize("change", ALTERED, ids=lambda change: " ".join(change))
def test_a_way_that_differs_in_one_thing_is_not_believed(minilm, monkeypatch, capsys, change):
    nanotoken = pytest.importorskip("nanotoken")
    real = nanotoken.Tokenizer.from_json
    monkeypatch.setattr(
        nanotoken.Tokenizer, "from_json", lambda content: real(altered(content, *change))
    )
    embedmill.pipeline.tokens.fastest._proved.cache_clear()
    tokenizer = loaded("minilm", minilm)
    way, ids = fastest(tokenizer)
    embedmill.pipeline.tokens.fastest._proved.cache_clear()
    assert way == "word by word"
    assert re.search("nanotoken .* not used", capsys.readouterr().err)
    assert equal(ids, tokenizer, ["Unaffably 你好 naïve\x00"])


def test_a_way_that_goes_wrong_later_is_stopped(minilm):
    class Worn:
        """Equal to the reference but for one word."""

        def encode_batch(self, texts, **options):
            ids_T, cu = text_by_text(tokenizer)(texts)
            worn = tokenizer.token_to_id("lemon")
            return np.where(ids_T == worn, worn + 1, ids_T).astype(np.uint32), cu

    tokenizer = loaded("minilm", minilm)
    ids = embedmill.pipeline.tokens.fastest.watched(Worn(), tokenizer)
    assert len(ids(["a pear"] * 100)[0]) == 200
    with pytest.raises(ModelError, match="TOKENIZER_DRIFT"):
        ids([*["a pear"] * 10, *["a lemon"] * 90])


def test_nanotoken_keeps_so_many_words_and_no_more(minilm):
    """Its own bound is a million words for each thread and table: a quarter of a gigabyte."""
    nanotoken = pytest.importorskip("nanotoken")
    embedmill.pipeline.tokens.fastest._proved.cache_clear()
    nanotoken.set_cache_entries(1 << 20)
    fastest(loaded("minilm", minilm))
    assert nanotoken.get_cache_entries() == CACHE_ENTRIES


def test_words_are_forgotten_once_they_are_many(minilm, monkeypatch):
    monkeypatch.setattr(embedmill.pipeline.tokens.wordwise, "MOST_WORDS", 50)
    tokenizer = loaded("minilm", minilm)
    words = Words(tokenizer)
    most = 0
    for n in range(40):
        texts = [f"word{n} x{n * k} the lemon" for k in range(8)]
        assert equal(words.ids, tokenizer, texts)
        most = max(most, len(words.numbers))
    assert 50 < most < 80


def test_without_nanotoken_it_goes_word_by_word(minilm, no_nanotoken, capsys):
    tokenizer = loaded("minilm", minilm)
    way, ids = fastest(tokenizer)
    assert way == "word by word"
    assert equal(ids, tokenizer, proof_texts(tokenizer)[:50])
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "normalizer", normalizers.NFKC()),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda t: t.add_tokens([AddedToken("sour fruit", normalized=False)]),
    ],
    ids=["normalizer", "pre-tokenizer", "token-with-a-space"],
)
def test_a_tokenizer_whose_words_know_of_each_other_goes_text_by_text(minilm, monkeypatch, change):
    tokenizer = as_text(tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json")))
    change(tokenizer)
    way, ids = fastest(tokenizer)
    assert way == "text by text"
    assert equal(ids, tokenizer, ["a sour fruit", "sour", "fruit"])


def test_several_threads_may_ask_one_tokenizer(minilm):
    """As the reader and the canary of one process do."""
    pytest.importorskip("nanotoken")
    tokenizer = loaded("minilm", minilm)
    ids, texts = fastest(tokenizer)[1], proof_texts(tokenizer)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ids(texts)[0], range(8)))
    assert all(np.array_equal(found[0], other) for other in found)
