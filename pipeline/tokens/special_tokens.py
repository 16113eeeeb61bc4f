"""Loads a tokenizer, and learns from it what stands around texts."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers

from embedmill.pipeline.model.sentence_folder import read_object, read_sentence_config
from embedmill.schemas.errors import ModelError


@dataclass(frozen=True, slots=True)
class Form:
    """The special tokens around texts, read from the tokenizer itself."""

    before: tuple[int, ...]  # [CLS]
    after: tuple[int, ...]  # [SEP]
    between: tuple[int, ...]  # [SEP] between A and B; it belongs to segment 0
    end: tuple[int, ...]  # [SEP] after B
    second_type: int  # segment id of B: 1, or 0 for models without segments
    pairs: bool = True  # whether a pair is in BERT's form; asked for by a job of pairs alone

    def room(self, max_tokens: int, pair: bool) -> int:
        """Tokens left for texts."""
        return max_tokens - len(self.before) - len(self.between + self.end if pair else self.after)


def load_tokenizer_file(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if path.exists():
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises plain Exception
            raise ModelError("TOKENIZER_INVALID", str(path), f"cannot be read: {error}") from None
        if read_sentence_config(folder).get("do_lower_case"):
            lower(tokenizer)
        _refuse_more_tokens(folder / "tokenizer_config.json", tokenizer)
        return tokenizer
    raise ModelError(
        "TOKENIZER_MISSING", str(path), "no such file", "save the model with a fast tokenizer"
    )


def _refuse_more_tokens(path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """ModelError for words that transformers would find in texts, and tokenizer.json does not."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    listed = read_object(path, {}).get("added_tokens_decoder")
    for one in listed.values() if isinstance(listed, dict) else ():
        if isinstance(one, dict) and not one.get("special") and one.get("content") not in known:
            what = f"adds the token {one.get('content')!r}, which tokenizer.json lacks"
            do = "save the tokenizer again, as a fast one"
            raise ModelError("TOKENIZER_UNSUPPORTED", str(path), what, do)


def lower(tokenizer: tokenizers.Tokenizer) -> None:
    """Lower-cases before all else, as sentence-transformers does where a folder asks for it."""
    own = tokenizer.normalizer
    steps = list(own) if isinstance(own, normalizers.Sequence) else [own] if own else []
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def as_text(tokenizer: tokenizers.Tokenizer) -> None:
    """From now on a text that spells a special token is text, and no such token.

    A Unigram model finds them by itself, since SentencePiece keeps them among its pieces: there
    they get names that no text can have. The tokenizer still knows them by their own.
    """
    tokenizer.encode_special_tokens = True
    if not isinstance(tokenizer.model, models.Unigram):
        return
    found = json.loads(tokenizer.model.__getstate__())
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    pieces = [
        (f"\uffff {piece}" if i in special else piece, score)
        for i, (piece, score) in enumerate(found["vocab"])
    ]
    tokenizer.model = models.Unigram(pieces, found["unk_id"], found["byte_fallback"])


def check_as_text(tokenizer: tokenizers.Tokenizer, form: Form) -> None:
    """ModelError for a tokenizer that finds the tokens of its form in what texts spell."""
    for special in {*form.before, *form.after, *form.between, *form.end}:
        word = tokenizer.id_to_token(special)
        for text in (word, f"a {word} b", f"a{word}b"):
            if special in tokenizer.encode(text, add_special_tokens=False).ids:
                what = f"reads {word} in a text as the special token"
                do = "set model.special_tokens_in_text: parse if your texts may do that"
                raise ModelError("TOKENIZER_UNSUPPORTED", "tokenizer.json", what, do)


def form_of(tokenizer: tokenizers.Tokenizer) -> Form:
    """Learns the form by asking: what stands around, between and behind two probes."""
    x, y = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", "b"))
    ids = tokenizer.encode("a").ids
    at_a = _find(ids, x, 0)
    single = Form(tuple(ids[:at_a]), tuple(ids[at_a + len(x) :]), (), (), 0, pairs=False)
    return _with_pairs(single, tokenizer.encode("a", "b"), x, y)


def _with_pairs(single: Form, pair: tokenizers.Encoding, x: list[int], y: list[int]) -> Form:
    """The form of pairs, too, where it is BERT's; a job of single texts does not need it."""
    try:
        pair_a = _find(pair.ids, x, 0)
        pair_b = _find(pair.ids, y, pair_a + len(x))
    except ModelError:
        return single
    second_type = pair.type_ids[pair_b]
    expected = [0] * pair_b + [second_type] * (len(pair.ids) - pair_b)
    if pair.ids[:pair_a] != list(single.before) or pair.type_ids != expected:
        return single
    between = tuple(pair.ids[pair_a + len(x) : pair_b])
    end = tuple(pair.ids[pair_b + len(y) :])
    return replace(single, between=between, end=end, second_type=second_type, pairs=True)


def unknown_id(tokenizer: tokenizers.Tokenizer) -> int:
    """The id of [UNK]; -1 if the tokenizer has none, because it falls back to bytes."""
    word = getattr(tokenizer.model, "unk_token", None)
    if word is None:  # Unigram does not tell: ask with what no vocabulary has
        ids = tokenizer.encode("\U0010fffd", add_special_tokens=False).ids
        word = tokenizer.id_to_token(ids[-1]) if ids else None
        word = word if word and "unk" in word.lower() else None
    found = tokenizer.token_to_id(word) if word else None
    return -1 if found is None else found


def _find(ids: list[int], probe: list[int], start: int) -> int:
    for at in range(start, len(ids) - len(probe) + 1):
        if probe and ids[at : at + len(probe)] == probe:
            return at
    raise ModelError(
        "TOKENIZER_UNSUPPORTED", "tokenizer.json", "does not keep a text's tokens together"
    )


def largest_id(tokenizer: tokenizers.Tokenizer, form: Form, parse_specials: bool) -> int:
    """The largest id that a text can give, or that stands around it.

    A special token that texts can only spell as text is left out: Gemma has one beyond its table.
    """
    added = tokenizer.get_added_tokens_decoder()
    hidden = {n for n, token in added.items() if token.special and not parse_specials}
    ids = {n for n in tokenizer.get_vocab(with_added_tokens=True).values() if n not in hidden}
    return max(ids | {*form.before, *form.after, *form.between, *form.end}, default=-1)
