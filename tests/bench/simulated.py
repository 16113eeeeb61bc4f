"""How busy the shipped driver loop keeps encoders that only sleep: by how many units a second.

    PYTHONPATH=. python tests/bench/simulated.py --rates 5 10 20 40 --seconds 90

Ten actors of a hundred threads are a thousand encoders (`--actors 1 --threads 8` are eight). Each
sleeps for a unit as long as a cost model says: rows over the rows a second of one. The encoders'
speed is fixed and the unit's rows follow from the rate: a unit lasts encoders / rate seconds. What
is measured is `pipeline` and `receipts` of the Ray runner as they are shipped, with stages that do
nothing else: chunks, rows, backpressure, three Ray tasks a unit, the receipts' way to the driver.
Busy is the time of all encoders asleep over all their time, from the moment that all of them have
had a unit until the first is short of one. CPU is of this process and of the head's others (GCS,
raylet), in milliseconds a unit: on a cluster of machines the workers are elsewhere. `--cpus` is
what Ray is told that the machine has. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import resource
import threading
import time
from itertools import pairwise
from typing import Any

import psutil
import pyarrow as pa
import ray

from embedmill.pipeline.run.on_ray import Stages, pipeline, receipts
from embedmill.pipeline.run.pool_size import Pool
from embedmill.pipeline.run.ray_source import cells, values
from embedmill.pipeline.run.receipt import Receipt
from embedmill.pipeline.run.session import quiet_context
from embedmill.schemas.manifest import PartRecord
from embedmill.schemas.plan import Shard, Slice, Unit

ROWS_PER_S = 10_000  # of one encoder: a small model on one GPU, research's round figure


def load(batch: pa.Table, job: bytes) -> pa.Table:
    """Units as they are."""
    return batch


class Sleep:
    """An actor whose threads sleep."""

    def __init__(self, job: bytes) -> None:
        self.rows_per_s = pickle.loads(job)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The unit, and when it was encoded and by whom."""
        done = []
        for unit in values(batch):
            began = time.time()
            time.sleep(unit.rows / self.rows_per_s)
            done.append((unit, began, time.time(), f"{os.getpid()} {threading.get_ident()}"))
        return cells(done)


def commit(batch: pa.Table, job: bytes) -> pa.Table:
    """The receipts."""
    return cells(receipt(*done) for done in values(batch))


def receipt(unit: Unit, began: float, ended: float, who: str) -> Receipt:
    """What a finished unit would say."""
    rows = unit.rows
    record = PartRecord(
        unit.key, unit.key, "0" * 64, 0, rows, rows, rows, 0, 0, rows, {}, "", (), 0, 0, 0, 0, 0, 0
    )
    return Receipt(record, 0.0, (began, ended), 0.0, 0, {"who": who}, {})


def units_of(count: int, rows: int) -> list[Unit]:
    """Units of one slice; a hundred of them a shard."""
    shards = [
        Shard(f"s3://bucket/corpus/{n:06d}.parquet", f"{n:06d}.parquet", 1, "v", "f", 100 * rows)
        for n in range(-(-count // 100))
    ]
    return [
        Unit(f"{n:032x}", (Slice(shards[n // 100], n % 100 * rows, rows),)) for n in range(count)
    ]


def measure(rate: float, seconds: float, actors: int, threads: int) -> dict[str, Any]:
    """One run: what was asked of the driver, what it gave."""
    encoders = actors * threads
    lasts = encoders / rate
    count = round(encoders * (1 + seconds / lasts))
    pool = Pool(actors, actors, actors, 0.01, 0.0, threads)
    began = time.time()
    dataset = pipeline(
        pickle.dumps(ROWS_PER_S), units_of(count, round(lasts * ROWS_PER_S)), pool,
        Stages(load, Sleep, commit),
    )  # fmt: skip
    burnt, spans = [0.0, 0.0], []
    for got in receipts(dataset, lambda: False):
        burnt = burnt if spans else burnt_by()  # what it takes to start is counted elsewhere
        spans.append((*got.encode_span, got.engine["who"]))
    busy, window, gaps = busy_of(spans)
    return {
        "asked": rate,
        "lasts": lasts,
        "units": count,
        "first": min(start for start, _, _ in spans) - began,
        "full": window[0] - began,
        "busy": busy,
        "gap": gaps,
        "given": busy * rate,
        "cpu": [1000 * (now - then) / count for now, then in zip(burnt_by(), burnt, strict=True)],
    }


def burnt_by() -> list[float]:
    """CPU seconds so far of the driver, and of Ray's head."""
    seconds = [0.0, 0.0]
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            if process == me or any(name in process.name() for name in ("gcs_server", "raylet")):
                seconds[process != me] += sum(process.cpu_times()[:2])
    return seconds


def busy_of(spans: list[tuple[float, float, str]]) -> tuple[float, tuple[float, float], float]:
    """(busy share, the window that it is of, the median seconds between two units of one)."""
    of: dict[str, list[tuple[float, float]]] = {}
    for start, end, who in sorted(spans):
        of.setdefault(who, []).append((start, end))
    window = max(own[0][0] for own in of.values()), min(own[-1][1] for own in of.values())
    asleep = sum(max(0.0, min(end, window[1]) - max(start, window[0])) for start, end, _ in spans)
    gaps = sorted(b[0] - a[1] for own in of.values() for a, b in pairwise(own))
    return (
        asleep / (len(of) * (window[1] - window[0])),
        window,
        gaps[len(gaps) // 2] if gaps else float("nan"),
    )


def main() -> None:
    """A Ray on this machine, one run after the other, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--actors", type=int, default=10)
    parser.add_argument("--threads", type=int, default=100)
    parser.add_argument("--cpus", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=args.cpus)
    quiet_context(600.0)
    names = "units/s asked, a unit s, units, given, busy, gap s, first, all, CPU ms".split(", ")
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    for rate in args.rates:
        m = measure(rate, args.seconds, args.actors, args.threads)
        print(
            f"| {m['asked']:g} | {m['lasts']:.1f} | {m['units']:,} | {m['given']:.1f} "
            f"| {m['busy']:.3f} | {m['gap']:.2f} | {m['first']:.1f} | {m['full']:.1f} "
            f"| {' + '.join(f'{ms:.1f}' for ms in m['cpu'])} |",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"driver's memory at most {peak:.2f} GiB; ray {ray.__version__}")


if __name__ == "__main__":
    main()
