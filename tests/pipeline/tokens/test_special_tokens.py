"""A text that spells a special token is text, with every kind of tokenizer, unless it is parsed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from embedmill.jobs.run import run
from embedmill.jobs.verify.output import verify
from embedmill.pipeline.tokens import tokenizer as tokens
from embedmill.schemas.errors import ModelError
from embedmill.schemas.spec import Spec
from tests.tiny import save_model, write_json

OF_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
OF_BERT = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
TEXTS = ["one {0} two", "{0}", "one{0}two{0}", "{0} {0}", "  {0}", "☃{0}☃", "{1} and {2}"]


def form(tokenizer: Tokenizer, specials: list[str]) -> Tokenizer:
    """The form <s> A </s></s> B </s>, and special tokens as folders declare them."""
    begin, end = specials[0], specials[2]
    tokenizer.add_special_tokens([*specials[:4], AddedToken(specials[4], lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} {end} $B {end}",
        special_tokens=[(word, tokenizer.token_to_id(word)) for word in (begin, end)],
    )  # fmt: skip
    return tokenizer


def unigram(first: list[str]) -> Tokenizer:
    """As XLM-RoBERTa and CamemBERT have it: special tokens are pieces, the likeliest of all."""
    letters = "abcdefghijklmnopqrstuvwxyz<>/[]CLSEPMAKUNT"
    pieces = [*((word, 0.0) for word in first), ("▁", -2.0), ("▁one", -1.5)]
    pieces += [(letter, -3.0 - n / 100) for n, letter in enumerate(letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=first.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return form(tokenizer, OF_ROBERTA)


def byte_level(specials: list[str], **more: Any) -> Tokenizer:
    words = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), "on", "one"]
    vocabulary = {word: n for n, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("o", "n"), ("on", "e")], **more))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return form(tokenizer, specials)


def word_pieces(pre_tokenizer: Any) -> Tokenizer:
    letters = [c for letter in "abcdefghijklmnopqrstuvwxyz[]" for c in (letter, f"##{letter}")]
    words = [*OF_BERT, "one", *letters]
    vocabulary = {word: n for n, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizer
    return form(tokenizer, OF_BERT)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "xlm-roberta": lambda: unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
    "camembert": lambda: unigram(
        ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>", "<mask>"]
    ),
    "roberta": lambda: byte_level(OF_ROBERTA),
    "modernbert": lambda: byte_level(OF_BERT),
    "whole-words-first": lambda: byte_level(OF_BERT, ignore_merges=True),
    "bert": lambda: word_pieces(pre_tokenizers.BertPreTokenizer()),
}


def loaded(folder: Path, tokenizer: Tokenizer, parse: bool = False) -> tokens.Tokenizer:
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokens.Tokenizer(folder, max_tokens=64, truncation="longest_first", parse_specials=parse)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_spelled_is_text(tmp_path: Path, kind: str) -> None:
    theirs = KINDS[kind]()
    words = OF_ROBERTA if theirs.token_to_id("</s>") is not None else OF_BERT
    specials = {theirs.token_to_id(word) for word in words}
    ours, parses = loaded(tmp_path, theirs), loaded(tmp_path, theirs, parse=True)
    for text in (one.format(words[2], words[0], words[4]) for one in TEXTS):
        ids, around = ours.encode([text], None).ids_T.tolist(), ours.form
        head, inner = len(around.before), ids[len(around.before) : -len(around.after)]
        assert (*ids[:head], *ids[len(ids) - len(around.after) :]) == around.before + around.after
        assert not set(inner) & (specials - {ours.unknown_id}), text
        parsed = parses.encode([text], None).ids_T.tolist()
        assert parsed[:head] == list(around.before)
        assert set(parsed[head : -len(around.after)]) & specials, text
        assert not set(ours.windows("", [text], 0).ids_T[head:-1].tolist()) & (
            specials - {ours.unknown_id}
        )
        if kind != "bert" and "☃" not in text:  # the tokens together are the text
            assert text.strip() == theirs.decode(inner, skip_special_tokens=False).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_every_other_text_has_the_ids_of_the_reference(tmp_path: Path, kind: str) -> None:
    theirs = KINDS[kind]()
    ours = loaded(tmp_path, theirs)
    theirs.encode_special_tokens = True
    texts = ["one two", "ones < s > ☃☃ one☃", "", " ", "a/b [c] <x>", "zzz ☃"]
    want = [theirs.encode(text).ids for text in texts]
    got = ours.encode(texts, None)
    assert want == [
        got.ids_T[a:b].tolist() for a, b in zip(got.cu_S1[:-1], got.cu_S1[1:], strict=True)
    ]


def test_a_tokenizer_that_cannot_do_it_is_refused(tmp_path: Path) -> None:
    """A word between spaces is looked up as it is, special tokens too."""
    tokenizer = word_pieces(pre_tokenizers.WhitespaceSplit())
    with pytest.raises(ModelError, match=r"TOKENIZER_UNSUPPORTED.*reads \[(SEP|CLS)\] in a text"):
        loaded(tmp_path, tokenizer)
    loaded(tmp_path, tokenizer, parse=True)


def test_a_run_and_its_reference_agree(tmp_path: Path, write_texts: Callable[..., Path]) -> None:
    """transformers alone would read "</s>" as the end of the text."""
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer = KINDS["xlm-roberta"]()
    save_model(folder, "xlm-roberta", vocab_size=tokenizer.get_vocab_size())
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("cls", "pad", "sep", "unk", "mask"), OF_ROBERTA, strict=True))
    config = {f"{name}_token": word for name, word in names.items()}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128}
    write_json(folder / "tokenizer_config.json", config)
    texts = [one.format("</s>", "<s>", "<mask>") for one in TEXTS]
    shard = write_texts(tmp_path / "in" / "a.parquet", text=texts)
    spec = {
        "input": {"path": str(shard), "text": "text"},
        "model": {"name": str(folder), "precision": "exact"},
        "output": {"path": str(tmp_path / "out"), "columns": [{"pooling": "mean"}]},
        "run": {"runner": "inline", "device": "cpu"},
    }
    run(Spec.model_validate(spec))
    found = verify(str(tmp_path / "out"), sample=len(texts))
    assert [] == found["problems"]
    assert len(texts) == found["sample"]["n"]
    assert 1e-5 > found["sample"]["max_abs_diff"]
