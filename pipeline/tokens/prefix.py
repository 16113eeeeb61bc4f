"""The beginning of a huge text that has all the tokens which will be kept, and where that is exact.

BERT's pre-tokenizer looks at one word at a time, and white space, ASCII punctuation and Chinese
characters end a word whatever stands around them. So the tokens of a text cut right before such a
character are the first tokens of the whole text. Two more facts keep this true where the text has
few of them: the normalizer works character by character, and a word that WordPiece finds too long
is one [UNK], so that the middle of a long run of letters and digits can be left out.

Of any other tokenizer (Unigram, byte-level BPE) nothing is promised: its texts stay whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer

# Only characters that every version of Unicode and every option of the normalizer treat alike.
SPACES = "\t\n\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
PUNCTUATION = r"!-/:-@\[-`{-~\u3001\u3002\uff01\uff0c\uff1f"
CHINESE = "\u3400-\u4db5\u4e00-\u9fa5"


@dataclass(frozen=True, slots=True)
class Head:
    """What is tokenized of a text."""

    text: str
    whole: bool = True  # False: the text goes on behind it
    gaps: tuple[tuple[int, int], ...] = ()  # (place in `text`, code points left out there)

    def origin(self, end: int) -> int:
        """Where in the whole text a token ends that ends here."""
        return end + sum(left_out for at, left_out in self.gaps if at <= end)


class Prefixes:
    """Cuts texts where one tokenizer certainly begins a new word."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._border = border(tokenizer)
        self._run, self._keep = None, 0
        self.words_stand_alone = self._border is not None  # at a space
        # An added token could stand in the middle of a word.
        if self._border and not _added(tokenizer) and isinstance(tokenizer.model, WordPiece):
            self._keep = tokenizer.model.max_input_chars_per_word + 1
            self._run = re.compile(f"[0-9A-Za-z]{{{self._keep + 1},}}")

    def head(self, text: str, size: int) -> Head:
        """`size` or more code points of a text, all of it where it cannot be cut."""
        if len(text) <= size or not self._border:
            return Head(text)
        border = self._border.search(text, size)
        end = border.start() if border else len(text)
        squeezed, gaps = self._squeeze(text[:end])
        return Head(squeezed, end == len(text), gaps)

    def pieces(self, text: str, size: int) -> Iterator[str]:
        """What is tokenized of a whole text; the tokens, piece after piece, are the text's."""
        at = 0
        while at < len(text):
            border = self._border.search(text, at + size) if self._border else None
            end = border.start() if border else len(text)
            yield self._squeeze(text[at:end])[0]
            at = end

    def _squeeze(self, text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The text without the middles of its endless words, and what was left out where."""
        if self._run is None:
            return text, ()
        kept, gaps, at, size = [], [], 0, 0
        for run in self._run.finditer(text):
            first, last = run.span()
            kept.append(text[at : first + self._keep])
            size += len(kept[-1])
            gaps.append((size, last - first - self._keep))
            at = last
        return "".join([*kept, text[at:]]), tuple(gaps)


def border(tokenizer: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    """Characters before which a text can be cut; None: there are none that one can be sure of."""
    normalizer, added = tokenizer.normalizer, _added(tokenizer)
    steps = list(normalizer) if isinstance(normalizer, Sequence) else [normalizer]
    steps = [step for step in steps if step is not None]
    if not isinstance(tokenizer.pre_tokenizer, BertPreTokenizer):
        return None
    if not all(isinstance(step, BertNormalizer | Lowercase) for step in steps):
        return None
    if added:  # found before words are, and perhaps across punctuation, but not across white space
        forms = [*added, *(normalizer.normalize_str(t) for t in added if normalizer is not None)]
        return None if re.search(r"\s", "".join(forms)) else re.compile(f"[{SPACES}]")
    chinese = CHINESE if any(getattr(s, "handle_chinese_chars", False) for s in steps) else ""
    return re.compile(f"[{SPACES}{PUNCTUATION}{chinese}]")


def _added(tokenizer: tokenizers.Tokenizer) -> list[str]:
    """Words that are tokens whatever the model says of them."""
    return [
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if not (token.special and tokenizer.encode_special_tokens)
    ]
