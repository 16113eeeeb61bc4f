"""Texts to BERT's input form: [CLS] A [SEP], or [CLS] A [SEP] B [SEP], without padding.

Comes in: texts. Goes out: Sequences, the flat ids with where each sequence and its second segment
start. A and B are tokenized alone and without special tokens; the special tokens, the truncation
and the segments are put together in numpy, equal to the reference to the last id (tested against
it). Of a long text only a beginning is tokenized, where its kept tokens cannot depend on the rest.
Truncation is data: how many code points were cut is kept for every sequence. Only of a sequence
that is cut an offset is asked for, of its last kept token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from embedmill.pipeline.batches import Sequences
from embedmill.pipeline.ragged import offsets, places
from embedmill.pipeline.tokens.fastest import fastest
from embedmill.pipeline.tokens.prefix import Head, Prefixes
from embedmill.pipeline.tokens.special_tokens import (
    as_text,
    check_as_text,
    form_of,
    largest_id,
    load_tokenizer_file,
    unknown_id,
)
from embedmill.pipeline.tokens.truncation import TRUNCATION
from embedmill.pipeline.tokens.windows import Window, cut_windows, windows_of
from embedmill.pipeline.tokens.wordwise import CHUNK, words_of

HEAD_CHARS = 8  # a token of a long text; a text that has more to a token is read further
PIECE_CHARS = 1 << 16  # of a text whose tokens are only counted
MAX_CHARS = 10_000_000  # of what is tokenized of one text: bounds the memory of one row
REFUSED = -1  # cut_S of a text above MAX_CHARS


@dataclass(slots=True)
class Side:
    """All texts A, or all texts B, and the ids of what is tokenized of them."""

    texts: list[str]
    heads: dict[int, Head]  # of the long texts; all others are tokenized whole
    ids: np.ndarray  # int32, flat
    first_S: np.ndarray  # where each text's ids begin
    len_S: np.ndarray  # how many it has; of a head that goes on, more than a sequence can hold

    def head(self, s: int) -> Head:
        """What is tokenized of a text."""
        return self.heads.get(s) or Head(self.texts[s])


class Tokenizer:
    """One model's tokenizer, loaded once per process."""

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int,
        truncation: str,
        parse_specials: bool,
        segments: int = 2,
    ) -> None:
        """`segments`: how many the model's table has; with none, text B is in segment 0 too."""
        self.max_tokens, self.truncation = max_tokens, truncation
        self._tokenizer = load_tokenizer_file(folder)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if not parse_specials:
            as_text(self._tokenizer)
        self.way, self._ids = fastest(self._tokenizer)
        self._prefixes = Prefixes(self._tokenizer)
        form = form_of(self._tokenizer)
        self.form = form if segments else replace(form, second_type=0)
        if not parse_specials:
            check_as_text(self._tokenizer, self.form)
        self.unknown_id = unknown_id(self._tokenizer)
        self.largest_id = largest_id(self._tokenizer, self.form, parse_specials)

    def sequences(
        self, prompt: str, a: list[str], b: list[str] | None, long_text: str, stride: int
    ) -> Sequences:
        """What a job makes of its texts, each A behind the prompt: windows, if it asks for them."""
        if long_text in ("window", "window_mean"):
            return self.windows(prompt, a, stride)
        return self.encode([prompt + text for text in a] if prompt else a, b)

    def encode(self, a: list[str], b: list[str] | None) -> Sequences:
        """One sequence for each text A; an empty B gives the single form. Input order.

        A text that is refused has only special tokens, and REFUSED in `cut_S`.
        """
        side_A, side_B = self._side(a), self._side(b) if b is not None else _nothing(len(a))
        pair_S = (
            np.fromiter(map(bool, b), bool, len(a)) if b is not None else np.zeros(len(a), bool)
        )
        if b is not None:
            self._settle_ties(side_A, side_B)
        keep_A, keep_B = self._keep(side_A.len_S, side_B.len_S, pair_S)
        sequences = self._assemble(side_A, keep_A, side_B, keep_B, pair_S)
        cut_S = sequences.cut_S
        for side, keep_S in ((side_A, keep_A), (side_B, keep_B)):
            cut_S += self._cut(side, keep_S)
        for side in (side_A, side_B):
            cut_S[[s for s, head in side.heads.items() if len(head.text) > MAX_CHARS]] = REFUSED
        return sequences

    def windows(self, prompt: str, a: list[str], stride: int) -> Sequences:
        """One or more sequences for each text A, each beginning with the prompt.

        The windows of a text lie one after the other, in the order of the texts; `windows` of
        the result says where they are in it. A text that fits is what `encode` makes of it.
        """
        texts = [prompt + text for text in a]
        refused = [len(text) > MAX_CHARS for text in texts]
        ids_A, cu_A = self._ids(["" if no else t for t, no in zip(texts, refused, strict=True)])
        room = self.form.room(self.max_tokens, False)
        found: list[Window] = []
        for n, text in enumerate(texts):
            ids = ids_A[cu_A[n] : cu_A[n + 1]]
            if len(ids) <= room:
                found.append(Window(n, 0, 0, len(a[n]), ids, len(ids)))
                continue
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            found += cut_windows(n, ids, encoding.offsets, len(prompt), len(text), room, stride)
        len_W = np.array([len(window.ids) for window in found], np.int64)
        flat = np.concatenate([ids_A[:0], *(window.ids for window in found)])
        side, none = Side([], {}, flat, offsets(len_W)[:-1], len_W), _nothing(len(found))
        sequences = self._assemble(side, len_W, none, none.len_S, none.len_S > 0)
        sequences.cut_S[[refused[window.text] for window in found]] = REFUSED
        return replace(sequences, windows=windows_of(found))

    def ends(self) -> tuple[list[str], list[str]]:
        """The special tokens before and behind a text, as words."""
        before, after = (
            [self._tokenizer.id_to_token(one) for one in ids]
            for ids in (self.form.before, self.form.after)
        )
        return before, after

    def special_in(self, text: str) -> str | None:
        """A special token that the text spells and that is read as text."""
        if not self._tokenizer.encode_special_tokens:
            return None
        known = self._tokenizer.get_added_tokens_decoder().values()
        return next((one.content for one in known if one.special and one.content in text), None)

    def tokens(self, ids: np.ndarray) -> list[str]:
        """The vocabulary's words for ids."""
        return [self._tokenizer.id_to_token(int(i)) for i in ids]

    def count(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        return sum(self._counts(text))

    def _side(self, texts: list[str]) -> Side:
        """Tokenizes texts, of a long one a head: all of the text, or one with too many tokens."""
        most = self.form.room(self.max_tokens, False)
        size = HEAD_CHARS * (most + 1)
        chars_S = np.fromiter(map(len, texts), np.int64, len(texts))
        long = np.flatnonzero(chars_S > min(size, MAX_CHARS)).tolist()
        heads = {s: self._prefixes.head(texts[s], size) for s in long}
        read = list(texts)
        for s, head in heads.items():
            read[s] = _tokenizable(head)
        ids, cu = self._ids(read)
        first_S, len_S = cu[:-1].copy(), np.diff(cu)
        while long := [s for s in long if not heads[s].whole and len_S[s] <= most]:
            size *= 2
            heads.update((s, self._prefixes.head(texts[s], size)) for s in long)
            more, cu = self._ids([_tokenizable(heads[s]) for s in long])
            first_S[long], len_S[long] = cu[:-1] + len(ids), np.diff(cu)
            ids = np.concatenate([ids, more])
        return Side(texts, heads, ids, first_S, len_S)

    def _counts(self, text: str) -> Iterator[int]:
        """Tokens of a text, piece after piece."""
        for piece in self._prefixes.pieces(text, PIECE_CHARS):
            yield len(self._ids([piece])[0])

    def _settle_ties(self, side_A: Side, side_B: Side) -> None:
        """Makes the length of the longer side of a pair the larger one, where that decides.

        If both sides are longer than all of a sequence, longest_first gives the odd token to the
        longer one: here, and only here, both are counted on until the shorter ends.
        """
        room = self.form.room(self.max_tokens, True)
        if self.truncation != "longest_first" or room % 2 == 0:
            return
        for s in np.flatnonzero((side_A.len_S > room) & (side_B.len_S > room)).tolist():
            if side_A.head(s).whole and side_B.head(s).whole:
                continue
            counted = [0, 0]
            sides = [self._counts(side_A.texts[s]), self._counts(side_B.texts[s])]
            while True:
                behind = int(counted[0] > counted[1])
                more = next(sides[behind], None)
                if more is None:
                    break
                counted[behind] += more
            # The side behind has ended: it is not the longer one.
            side_A.len_S[s] = side_B.len_S[s] + behind

    def _keep(
        self, len_A: np.ndarray, len_B: np.ndarray, pair_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens of A and of B stay."""
        room_S = np.where(
            pair_S, self.form.room(self.max_tokens, True), self.form.room(self.max_tokens, False)
        )
        keep_A, keep_B = TRUNCATION[self.truncation](len_A, len_B, room_S)
        return np.where(pair_S, keep_A, np.minimum(len_A, room_S)), np.where(pair_S, keep_B, 0)

    def _assemble(
        self, side_A: Side, keep_A: np.ndarray, side_B: Side, keep_B: np.ndarray, pair_S: np.ndarray
    ) -> Sequences:
        """Lays the pieces of each sequence one behind the other: [CLS], A, [SEP], B, [SEP]."""
        form = self.form
        marks = (form.before, form.after, form.between, form.end)
        before, after, between, end, first = np.cumsum([0, *map(len, marks)])
        ids = np.concatenate([np.array(sum(marks, ()), np.int32), side_A.ids, side_B.ids])
        first_S5, len_S5 = np.empty((2, len(pair_S), 5), np.int64)
        for n, (where, lengths) in enumerate(
            (
                (before, after - before),
                (first + side_A.first_S, keep_A),
                (
                    np.where(pair_S, between, after),
                    np.where(pair_S, end - between, between - after),
                ),
                (first + len(side_A.ids) + side_B.first_S, keep_B),
                (end, np.where(pair_S, first - end, 0)),
            )
        ):
            first_S5[:, n], len_S5[:, n] = where, lengths
        cu_S1 = offsets(len_S5.sum(axis=1))
        second_S = len_S5[:, : 3 if form.second_type else 5].sum(axis=1, dtype=np.int32)
        ids_T = ids[places(first_S5.ravel(), len_S5.ravel())]
        return Sequences(ids_T, cu_S1, second_S, np.zeros(len(pair_S), np.int64))

    def _cut(self, side: Side, keep_S: np.ndarray) -> np.ndarray:
        """Code points of each text after its last kept token; 0 if no token is cut.

        A cut inside the last code point (one Hangul syllable may be several tokens) loses that one.
        """
        cut_S = np.zeros(len(keep_S), np.int64)
        cut = np.flatnonzero(keep_S < side.len_S).tolist()
        for some in (cut[n : n + CHUNK] for n in range(0, len(cut), CHUNK)):
            heads, kept = [side.head(s) for s in some], keep_S[some]
            for s, head, end in zip(some, heads, self._ends(heads, kept), strict=True):
                cut_S[s] = max(1, len(side.texts[s]) - head.origin(end))
        return cut_S

    def _ends(self, heads: list[Head], kept: np.ndarray) -> list[int]:
        """Where the last kept token of each head ends, 0 if none is kept.

        Offsets cost more than ids: where words stand alone, only those of one word are asked for.
        """
        texts = [_tokenizable(head) for head in heads]
        ask = self._tokenizer.encode
        if not self._prefixes.words_stand_alone:
            found = [ask(text, add_special_tokens=False).offsets for text in texts]
            return [some[k - 1][1] if k else 0 for some, k in zip(found, kept, strict=True)]
        split = [words_of(text) for text in texts]
        words = list(chain.from_iterable(split))
        cu_S1 = offsets(np.fromiter(map(len, split), np.int64, len(split)))
        place_W = offsets(np.fromiter(map(len, words), np.int64, len(words)) + 1)
        token_W = self._ids(words)[1]
        last_S = token_W[cu_S1[:-1]] + kept - 1  # the last kept token, among all of all words
        word_S = np.searchsorted(token_W, last_S, side="right") - 1
        start_S, inside_S = place_W[word_S] - place_W[cu_S1[:-1]], last_S - token_W[word_S]
        return [
            start + ask(words[w], add_special_tokens=False).offsets[token][1] if k else 0
            for w, start, token, k in zip(word_S, start_S, inside_S, kept, strict=True)
        ]


def _nothing(count: int) -> Side:
    """The side that no sequence has."""
    zeros = np.zeros(count, np.int64)
    return Side([], {}, np.zeros(0, np.int32), zeros, zeros)


def _tokenizable(head: Head) -> str:
    return head.text if len(head.text) <= MAX_CHARS else ""
