"""Words for a terminal: what the data hold is shown there, and never obeyed."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO


def visible(text: str, keep: str = "") -> str:
    """The text with control, format and surrogate characters as escapes; those in `keep` stay.

    An escape sequence in an id could move the cursor, clear the screen or forge a row; a mark of
    direction could turn a line around.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(letter: str) -> str:
    if unicodedata.category(letter) == "Zs":  # a space that is not " " stays what it looks like
        return letter
    return ascii(letter)[1:-1]


def say(text: str, *, stream: TextIO | None = None, prefix: str = "embedmill: ") -> None:
    """Prints one line on stderr, at once, with nothing in it that a terminal obeys."""
    print(prefix + visible(text), file=stream or sys.stderr, flush=True)
