"""The fastest way to a tokenizer's ids that is exact, found when the tokenizer is loaded.

    nanotoken       BERT's WordPiece, where the package is installed and has proved itself
    word by word    BERT's WordPiece without it
    text by text    every other tokenizer

nanotoken is a young package of one author, so it is believed only as far as it can be watched. It
has to give the reference's ids for all that is in `proof_texts` before it gives any, and goes on to
be compared with it on a few texts of every call. It gives ids alone: no offsets, no pairs.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import tokenizers
from tokenizers.models import WordPiece

from embedmill.pipeline.tokens.prefix import border
from embedmill.pipeline.tokens.wordwise import Flat, Ids, text_by_text, word_by_word
from embedmill.schemas.errors import ModelError
from embedmill.schemas.terminal import say

CACHE_ENTRIES = 1 << 16  # words that nanotoken keeps: some 20 MB, however large the corpus
AGAIN, AGAIN_CHARS = 4, 4096  # texts of a call that are compared, if they are not huge
MOST_WORDS = 1 << 16  # of a vocabulary, in the proof
BELOW, STEP = 0x3400, 61  # all code points below, and then a few of the blocks of many alike

SCRIPTS = (
    "Ünïcödé, naïve façade; ÀÉÎÕÜ ß ẞ ŉ ﬁ ǅ İstanbul ıI Σίσυφος ΣΑΣ", "e\u0301 a\u0308\u0327\u0301",
    "Привет, мир! Ёлка й и\u0306", "مرحبا بالعالم، السَّلَامُ ﷺ", "שלום עוֹלָם", "नमस्ते दुनिया। क्षत्रिय",
    "สวัสดีชาวโลก ทำไม", "Xin chào thế giới, Tiếng Việt", "გამარჯობა Ⴀ ᲐᲑ", "Բարեւ աշխարհ",
    "你好，世界！㐀\U00020000豈", "日本語のテキスト、カタカナ ｶﾀｶﾅ が が",
    "한국어 문장 각 \u1112\u1161\u11ab",
    "🍋 👩‍👩‍👧‍👦 🇫🇷 ✊🏽 ☺️", "½ Ⅷ ① ² ℌ", "\u202eright to left\u202c",
)  # fmt: skip
SPACES = (
    "", " ", "\t\n\r\n", "a\tb\nc\rd\x0be\x0cf\x1cg\x85h\xa0i\u2028j\u3000k", " a  b ",
    "nul\x00bell\x07del\x7f soft\u00adhyphen zero\u200bwidth bom\ufeff joined\u2060wor\u180eds",
    "private \ue000 noncharacter \ufffe tag \U000e0041 replaced \ufffd",
)  # fmt: skip
WORDS = (
    "don't stop-the o'clock U.S.A. 3,000.50 a_b c/d e@f.g #h $5 ~!@#$%^&*()_+`-=[]{}|;':\",.<>?",
    "https://example.org/a/b?c=d&e=f#g snake_case camelCase kebab-case ##ing ## #", "-" * 300,
    *("x" * n + " é" + "é" * n + " " + "你" * n + " a" + "\u0301" * n for n in (99, 100, 101, 300)),
    "word " * 600, "Supercalifragilistic" * 9, "a" * 100 + "-" + "b" * 101 + "." + "c" * 99,
)  # fmt: skip


def fastest(tokenizer: tokenizers.Tokenizer) -> tuple[str, Ids]:
    """The way for a tokenizer as it is set up now, and its name."""
    if border(tokenizer) is None:
        return "text by text", text_by_text(tokenizer)
    known = isinstance(tokenizer.model, WordPiece)
    backend = known and _proved(tokenizer.to_str(), tokenizer.encode_special_tokens)
    if backend:
        return "nanotoken", watched(backend, tokenizer)
    return "word by word", word_by_word(tokenizer)


def proof_texts(tokenizer: tokenizers.Tokenizer) -> list[str]:
    """What must come out equal: scripts, spaces, long words, code points, the vocabulary."""
    words = sorted(tokenizer.get_vocab(with_added_tokens=True))
    words = words[:: -(-len(words) // MOST_WORDS)]
    inside = tokenizer.model.continuing_subword_prefix
    words += [
        first + w.removeprefix(inside) for w in words if w.startswith(inside) for first in "7x"
    ]
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    points = [*range(BELOW), *range(BELOW, 0xD800, STEP), *range(0xE000, 0x110000, STEP)]
    marks = [f"{chr(point)} a{chr(point)}B" for point in points]
    return [
        *SCRIPTS, *SPACES, *WORDS, " ".join(SCRIPTS), "".join(WORDS),
        *(f"{t} {t}{t} a{t}b [{t}] {t.lower()} {t.upper()} {t[:-1]} {t[1:]}" for t in added),
        *(" ".join(words[n : n + 64]) for n in range(0, len(words), 64)),
        *(" ".join(marks[n : n + 64]) for n in range(0, len(marks), 64)),
    ]  # fmt: skip


def equal(ids: Ids, tokenizer: tokenizers.Tokenizer, texts: list[str]) -> bool:
    """Whether a way gives the reference's ids, to the last one."""
    pairs = zip(ids(texts), text_by_text(tokenizer)(texts), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def watched(backend: Any, tokenizer: tokenizers.Tokenizer) -> Ids:
    """nanotoken's ids; ModelError once they are not the reference's."""
    fast = functools.partial(_encode, backend)

    def ids(texts: list[str]) -> Flat:
        some = texts[:: -(-len(texts) // AGAIN) or 1]
        some = [text for text in some if len(text) <= AGAIN_CHARS]
        if not equal(fast, tokenizer, some):
            raise ModelError(
                "TOKENIZER_DRIFT",
                "nanotoken",
                "gives other ids for a text than the reference. This is a bug of it, or of memory",
                "pip uninstall nanotoken, and encode anew what it was used for",
            )
        return fast(texts)

    return ids


def _encode(backend: Any, texts: list[str]) -> Flat:
    ids_T, cu = backend.encode_batch(texts, add_special_tokens=False, parallel=False)
    return ids_T.view(np.int32), cu


@functools.lru_cache(maxsize=4)
def _proved(content: str, specials_are_text: bool) -> Any:
    """nanotoken's tokenizer of the same content; None without it, or if it is not exact."""
    try:
        import nanotoken
    except ImportError:
        return None
    tokenizer = tokenizers.Tokenizer.from_str(content)
    tokenizer.encode_special_tokens = specials_are_text
    settings = json.loads(content)
    settings["post_processor"] = None
    settings["added_tokens"] = [
        token for token in settings["added_tokens"] if not (token["special"] and specials_are_text)
    ]
    try:
        nanotoken.set_cache_entries(CACHE_ENTRIES)
        backend = nanotoken.Tokenizer.from_json(json.dumps(settings)).backend
        if equal(functools.partial(_encode, backend), tokenizer, proof_texts(tokenizer)):
            return backend
        what = "gives other ids"
    except Exception as error:  # whatever it is, the reference can do without
        what = f"cannot be used ({(str(error).splitlines() or [''])[0][:120]})"
    say(f"nanotoken {what} for this tokenizer: not used")
    return None
