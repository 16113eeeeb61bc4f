"""What the index of a snapshot's input hashes costs: time and memory to build and to ask.

    PYTHONPATH=. python tests/bench/hashes.py --rows 1000000 20000000

The hashes are random, in parts of 65,536 rows that are made up and never on disk; the index is.
Each size is a process of its own. Seconds are of the CPU. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from embedmill.pipeline.reuse.sorted_index import ENTRY, find, write_index
from embedmill.pipeline.store.output import open_store

PART_ROWS = 65_536
ASKED = (2_048, 65_536)  # rows of a unit on a CPU, and on a GPU


def parts(rows: int) -> Iterator[np.ndarray]:
    """The entries of made-up parts."""
    for number, first in enumerate(range(0, rows, PART_ROWS)):
        count = min(PART_ROWS, rows - first)
        entries = np.zeros(count, ENTRY)
        halves = np.random.default_rng(number).integers(0, 2**64, (count, 2), np.uint64)
        entries["a"], entries["b"] = halves.T
        entries["part"], entries["row"] = number, np.arange(count)
        yield entries


def question(rows: int) -> np.ndarray:
    """Hashes of which a half are there: rows of the first part, and others."""
    there = np.random.default_rng(0).integers(0, 2**64, (rows // 2, 2), np.uint64)
    other = np.random.default_rng(1 << 40).integers(0, 2**64, (rows - rows // 2, 2), np.uint64)
    return np.concatenate([there, other])


def measure(rows: int) -> None:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        find(store, [], question(2))  # polars is there from now on
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        segments = write_index(store, "index", parts(rows), rows)
        built = time.process_time() - began
        cells = [f"{rows:,}", str(len(segments)), f"{built:.1f}"]
        cells.append(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:,.0f}")
        for asked in ASKED:
            halves, began = question(asked), time.process_time()
            found = find(store, segments, halves)
            assert asked // 2 == len(found)
            cells.append(f"{1000 * (time.process_time() - began):.0f}")
        cells.append(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:,.0f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """The sizes in turn, each in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 20_000_000])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    asked = " | ".join(f"CPU ms to find {n:,}" for n in ASKED)
    print(f"| rows | objects | CPU s to build | MiB more | {asked} | MiB more in all |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for rows in args.rows:
        subprocess.run([sys.executable, __file__, "--measure", str(rows)], check=True)


if __name__ == "__main__":
    main()
