"""Texts to the ids of their tokens, as the reference gives them: text by text, or word by word.

Ids are int32 on one flat axis, with S + 1 offsets; special tokens are not added here. The faster
way is for BERT's WordPiece: a text is split at its spaces, and each distinct word asked for once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from operator import attrgetter

import numpy as np
import tokenizers

from embedmill.pipeline.ragged import offsets, places

Flat = tuple[np.ndarray, np.ndarray]
Ids = Callable[[list[str]], Flat]

CHUNK = 512  # texts at once: bounds the memory of Encoding objects, and of words
MOST_WORDS, MOST_IDS = 1 << 18, 1 << 20  # that are kept: some 50 MB


def words_of(text: str) -> list[str]:
    """What stands between the spaces of a text, and between its lines; "" between two of them."""
    return text.replace("\n", " ").split(" ")


def text_by_text(tokenizer: tokenizers.Tokenizer) -> Ids:
    """Exact for every tokenizer."""

    def ids(texts: list[str]) -> Flat:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        cu = offsets(np.fromiter(map(len, encodings), np.int64, len(encodings)))
        flat = chain.from_iterable(map(attrgetter("ids"), encodings))
        return np.fromiter(flat, np.int32, cu[-1]), cu

    return in_chunks(ids)


def word_by_word(tokenizer: tokenizers.Tokenizer) -> Ids:
    """Exact where no word knows what stands beyond a space: where prefix.py sees a border."""
    return in_chunks(Words(tokenizer).ids)


class Words:
    """The words that were seen, and their ids; all are forgotten once they are many."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._ask = text_by_text(tokenizer)
        self._forget()

    def _forget(self) -> None:
        self.numbers: dict[str, int] = {}  # word n has ids_T[cu[n]:cu[n + 1]]
        self._ids_T, self._cu = np.zeros(0, np.int32), np.zeros(1, np.int64)

    def _learn(self, words: list[str]) -> None:
        ids_T, cu = self._ask(words)
        self._ids_T = np.concatenate([self._ids_T, ids_T])
        self._cu = np.append(self._cu, self._cu[-1] + cu[1:])
        self.numbers.update(zip(words, range(len(self.numbers), len(self._cu) - 1), strict=True))

    def ids(self, texts: list[str]) -> Flat:
        """Looks every word up, and asks the reference for those that are new."""
        if len(self.numbers) > MOST_WORDS or len(self._ids_T) > MOST_IDS:
            self._forget()
        split = [words_of(text) for text in texts]
        words = list(chain.from_iterable(split))
        # Not set(words) - keys: that goes through all the keys.
        if new := [word for word in set(words) if word not in self.numbers]:
            self._learn(new)
        number_W = np.fromiter(map(self.numbers.__getitem__, words), np.int64, len(words))
        first_W = self._cu[number_W]
        len_W = self._cu[number_W + 1] - first_W
        cu_S1 = offsets(np.fromiter(map(len, split), np.int64, len(split)))
        return self._ids_T[places(first_W, len_W)], offsets(len_W)[cu_S1]


def in_chunks(ids: Ids) -> Ids:
    """The same for any number of texts."""

    def whole(texts: list[str]) -> Flat:
        found = [ids(texts[first : first + CHUNK]) for first in range(0, max(len(texts), 1), CHUNK)]
        ids_T = np.concatenate([ids_T for ids_T, _ in found])
        return ids_T, offsets(np.concatenate([np.diff(cu) for _, cu in found]))

    return whole
