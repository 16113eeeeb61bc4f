"""Runs `index` in a process of its own that ends by SIGKILL once it has asked for N batches.

python -m tests.pipeline.index.killed N SPEC

N = -1: when all is there and checked, and not yet published.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from embedmill.jobs import index as room
from embedmill.pipeline.index import records
from embedmill.schemas.spec_file.load import load_spec

ROWS = 12  # of a batch


def main(after: int, spec: str) -> None:
    """Never returns, if there are so many batches."""
    gather = records.gather
    if after < 0:
        room._Load._judge = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

    def die(items: Iterator[Any]) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

    def small(make: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def cut(*arguments: Any) -> Iterator[Any]:
            for batch in make(*arguments):
                yield from (batch.slice(n, ROWS) for n in range(0, len(batch), ROWS))

        return cut

    room.records, room.all_records = small(room.records), small(room.all_records)
    sink = load_spec(spec).index[0]
    if sink.sink == "faiss":  # takes batches as they come
        room.ahead = lambda items: die(items)
    else:
        name = "qdrant.edge" if sink.sink == "qdrant" and sink.path else f"{sink.sink}.{sink.sink}"
        module = importlib.import_module(f"embedmill.pipeline.index.{name}")
        module.FLUSHED = 1
        if sink.sink == "lance":
            module.FRAGMENT_ROWS, portions = ROWS, records.portions
            module.portions = lambda come, rows: die(portions(come, rows))
        else:
            module.gather = lambda come, *_: die(gather(come, ROWS))
    room.index(load_spec(spec))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
