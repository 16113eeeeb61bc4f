"""What a run counts for Prometheus: names, meanings, and what each receipt adds. No ray here.

The driver counts, once for each receipt, so nothing is lost with a worker or counted twice by a
retry. Ray exports the names with `ray_` before them, and counters with `_total` after them.
"""

from __future__ import annotations

from collections.abc import Iterator

from embedmill.pipeline.run.receipt import Receipt

# name -> (meaning, labels beside the run)
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "embedmill_units": ("Units finished, encoded here or adopted from another driver.", ("how",)),
    "embedmill_rows": (
        "Input rows: encoded, equal to another of their unit, or rejected.",
        ("how",),
    ),
    "embedmill_rejects": ("Rows without a vector, by their code.", ("code",)),
    "embedmill_tokens": ("Tokens encoded, special tokens included.", ()),
    "embedmill_encode_seconds": ("Seconds with a unit in an encoder, summed over encoders.", ()),
    "embedmill_prepare_seconds": ("Seconds of reading and tokenizing, summed over workers.", ()),
    "embedmill_write_seconds": ("Seconds of writing and committing, summed over workers.", ()),
}
GAUGES: dict[str, str] = {
    "embedmill_units_left": "Units of this run that are not finished.",
    "embedmill_rows_left": "Input rows of those units.",
}


def counted(receipt: Receipt) -> Iterator[tuple[str, dict[str, str], float]]:
    """(counter, labels, how much) of one finished unit."""
    record = receipt.record
    if receipt.adopted:
        yield "embedmill_units", {"how": "adopted"}, 1
        return
    yield "embedmill_units", {"how": "encoded"}, 1
    yield "embedmill_rows", {"how": "encoded"}, record.rows_out - record.rows_deduplicated
    yield "embedmill_rows", {"how": "equal"}, record.rows_deduplicated
    yield "embedmill_rows", {"how": "rejected"}, record.rows_rejected
    for code, rows in record.rejects.items():
        yield "embedmill_rejects", {"code": code}, rows
    began, ended = receipt.encode_span
    yield "embedmill_tokens", {}, record.tokens
    yield "embedmill_encode_seconds", {}, ended - began
    yield "embedmill_prepare_seconds", {}, receipt.prepare_seconds
    yield "embedmill_write_seconds", {}, receipt.write_seconds
