"""Tokenizes rows of a unit; a text on which the tokenizer panics costs its own rows alone."""

from __future__ import annotations

from collections.abc import Sequence

from embedmill.pipeline.batches import Sequences, TextBatch
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.schemas.plan import Plan


def tokenize(
    plan: Plan, tokenizer: Tokenizer, texts: TextBatch, rows: Sequence[int]
) -> tuple[Sequences, list[int]]:
    """The sequences of these rows, and no row; or any sequences, and the rows that panic.

    Each row is judged alone, so that it does not depend on its neighbours which one is rejected.
    """
    a = [texts.a[row] for row in rows]
    b = [texts.b[row] for row in rows] if texts.b is not None else None
    long_text, stride = plan.identity["long_text"], plan.identity["stride"]
    try:
        return tokenizer.sequences(plan.model["prompt"], a, b, long_text, stride), []
    except BaseException as error:
        if not is_panic(error) or len(rows) == 0:
            raise
        if len(rows) == 1:
            return tokenizer.sequences("", [], b and [], long_text, stride), [rows[0]]
    bad = [row for row in rows if tokenize(plan, tokenizer, texts, [row])[1]]
    return tokenizer.sequences("", [], b and [], long_text, stride), bad


def is_panic(error: BaseException) -> bool:
    """True for a panic of the tokenizer's Rust code, which is no Exception."""
    return type(error).__name__ == "PanicException"
