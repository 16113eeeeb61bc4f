"""Many schedules on all cores: python -m tests.simulation 100000 [first seed]."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

CHUNK = 200


def main() -> None:
    """Plays the schedules; exit 1 if one of them breaks what must be true."""
    count = int(sys.argv[1])
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    os.environ["POLARS_MAX_THREADS"] = "1"
    from tests.simulation.report import Played, explain, played_apart

    total, began = Played(), time.monotonic()
    chunks = [range(n, min(n + CHUNK, first + count)) for n in range(first, first + count, CHUNK)]
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(played_apart, chunk) for chunk in chunks]):
            total.merge(future.result())
            print(f"\r{total.schedules:,} of {count:,}", end="", file=sys.stderr, flush=True)
    print(f"\n{total}\n{time.monotonic() - began:,.0f} s on {cores} cores")
    if total.failed:
        from tests.simulation.house import furnished

        with furnished():
            print(explain(min(total.failed)))
        sys.exit(1)


if __name__ == "__main__":
    main()
