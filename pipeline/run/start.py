"""Chooses the runner and starts it: the one door to `inline` and `ray`."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import islice

from embedmill.pipeline.canary import make_canary
from embedmill.pipeline.plan.resolve import count_gpus
from embedmill.pipeline.run.receipt import Receipt
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.plan import Plan, Unit
from embedmill.schemas.spec import Run


@contextmanager
def start(plan: Plan, units: list[Unit], stop_name: str, run: Run) -> Iterator[Iterator[Receipt]]:
    """Commits every unit; gives an iterator over their receipts, in any order.

    Once the object `stop_name` is in the output's store, no unit is begun. Each run begins at
    another unit, so that two drivers of one plan meet late and adopt what the other has done. What
    the runner holds goes when the context ends: a cluster's session takes a second for that, and a
    manifest need not wait for it.
    """
    with closing(_receipts(plan, units, stop_name, run)) as receipts:
        yield islice(receipts, len(units))


def _receipts(
    plan: Plan, units: list[Unit], stop_name: str, run: Run
) -> Generator[Receipt, None, None]:
    first = zlib.crc32(stop_name.encode()) % max(len(units), 1)
    units = units[first:] + units[:first]
    if _runner(run) == "ray":
        if units:  # here once, instead of in every encoder
            make_canary(open_store(plan.output), plan)
        if "ray" not in sys.modules:  # it reads this when it is imported, and only then
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from embedmill.pipeline.run.on_ray import run_ray

        return run_ray(plan, units, stop_name, run)
    from embedmill.pipeline.run.inline import run_inline

    return run_inline(plan, units, stop_name, run)


def _runner(run: Run) -> str:
    if run.runner != "auto":
        return run.runner
    address = run.address or os.environ.get("RAY_ADDRESS")
    return "ray" if address or count_gpus() > 1 else "inline"
