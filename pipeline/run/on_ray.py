"""The runner on Ray Data, where one dataset row is one unit.

    chunks of units -> one row a block -> load (CPU task) -> encode (actors) -> commit (CPU task)

Ray may cut, merge and retry blocks as it likes but never splits a row, so a unit stays whole.
Ray owns scheduling, backpressure, retries and the pool; what a unit is and when it is committed
stays ours. The stages ask for different resources, or Ray would fuse the tokenizer into the
encoder's process and run them in turn. Only this file, `session.py`, `ray_source.py` and
`jobs/cluster/submit.py` import ray.
"""

from __future__ import annotations

import functools
import os
import pickle
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists, _internal_kv_put
from ray.util.metrics import Counter, Gauge

from embedmill.pipeline import flow, load
from embedmill.pipeline.batches import Encoded, Prepared
from embedmill.pipeline.canary import Canary
from embedmill.pipeline.run import attempts
from embedmill.pipeline.run.failures import ours
from embedmill.pipeline.run.isolated import encode_apart
from embedmill.pipeline.run.metrics import COUNTERS, GAUGES, counted
from embedmill.pipeline.run.pool_size import COMMIT_CPUS, LOAD_CPUS, Pool
from embedmill.pipeline.run.ray_source import CELL, cells, feed, values
from embedmill.pipeline.run.receipt import Receipt, adopted
from embedmill.pipeline.run.session import session
from embedmill.pipeline.run.worker import Job, job_of, versions
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.schemas.errors import ModelError
from embedmill.schemas.plan import Plan, Unit
from embedmill.schemas.spec import Run
from embedmill.schemas.terminal import say

LOOK_SECONDS = 1.0  # between looks for a stop, while there is no encoder yet


@dataclass(frozen=True, slots=True)
class Stages:
    """What the three stages run. A measurement puts others in their place."""

    load: Callable[..., pa.Table]
    encode: type
    commit: Callable[..., pa.Table]


def run_ray(
    plan: Plan, units: list[Unit], stop_name: str, run: Run
) -> Generator[Receipt, None, None]:
    """Commits every unit on the cluster; yields receipts as they come.

    Once the object `stop_name` is in the output's store, no task begins a unit; and if there is no
    encoder yet, nothing is waited for.
    """
    if not units:
        return
    job = Job(plan, stop_name, versions(ray.__version__))
    try:
        # Ray prints what its raylet notices to stdout, which is for our data.
        with redirect_stdout(sys.stderr), session(plan, run, units) as pool:
            if not job.stopped:
                yield from _run(job, units, pool)
    except SystemExit:  # a signal came while Ray took those for itself; the run has been told
        if not job.stopped:
            raise


def _run(job: Job, units: list[Unit], pool: Pool) -> Iterator[Receipt]:
    dataset = pipeline(pickle.dumps(job), units, pool, STAGES)
    count, left = _counting(job.stop_name.split("/")[-2], units), len(units)
    come = receipts(dataset, _Waiting(job))
    try:
        for receipt in come:
            count(receipt)
            left -= 1
            yield receipt
        _internal_kv_del(_mark(job))
    except (RayError, ExecutionTimeoutError) as error:
        raise ours(error) from None
    except GeneratorExit:
        if not left:  # the caller has all, and Ray Data is about to end: not in the middle of it
            with suppress(RayError, ExecutionTimeoutError):
                deque(come, maxlen=0)
                _internal_kv_del(_mark(job))
        raise


def pipeline(job: bytes, units: list[Unit], pool: Pool, stages: Stages) -> Dataset:
    """The dataset whose rows are receipts; nothing is run yet.

    An actor with one lane fetches the next unit while it encodes; with more of them it has as many
    units in hand.
    """
    calls = max(2, pool.lanes)
    one_a_call: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    return (
        feed(units)
        .map_batches(stages.load, fn_kwargs={"job": job}, num_cpus=LOAD_CPUS, **one_a_call)
        .map_batches(
            stages.encode,
            fn_constructor_kwargs={"job": job},
            compute=ActorPoolStrategy(
                min_size=pool.least,
                max_size=pool.most,
                initial_size=pool.initial,
                max_tasks_in_flight_per_actor=2 * calls,
                max_concurrent_calls_per_actor=calls,
                enable_true_multi_threading=pool.lanes > 1,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            **one_a_call,
        )
        .map_batches(stages.commit, fn_kwargs={"job": job}, num_cpus=COMMIT_CPUS, **one_a_call)
    )


def receipts(dataset: Dataset, give_up: Callable[[], bool]) -> Iterator[Receipt]:
    """What the last stage gives, as it comes; ends early if `give_up`, asked while nothing comes.

    Ray Data itself cannot be asked to wait for a while only, so another thread waits for it.
    """
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def wait() -> None:
        try:
            for batch in dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for receipt in values(batch):
                    found.put(receipt)
            found.put(None)
        except BaseException as error:
            found.put(error)

    threading.Thread(target=wait, name="receipts", daemon=True).start()
    while True:
        try:
            got = found.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if give_up():
                return
            continue
        if got is None:
            return
        if isinstance(got, BaseException):
            raise got
        yield got


class _Waiting:
    """Whether a run has been stopped before its first encoder was there."""

    def __init__(self, job: Job) -> None:
        self._job, self._over = job, False

    def __call__(self) -> bool:
        # In this order: an encoder that comes after the stop finds it, and begins nothing.
        self._over = self._over or bool(_internal_kv_exists(_mark(self._job)))
        return not self._over and self._job.stopped


def _mark(job: Job) -> str:
    """Ray's own store has this key once the run has an encoder."""
    return f"embedmill:{job.stop_name}"


def _counting(run_id: str, units: list[Unit]) -> Callable[[Receipt], None]:
    """Counts receipts for Prometheus, under the run's id."""
    counters = {
        name: Counter(name, description=said, tag_keys=("run", *labels))
        for name, (said, labels) in COUNTERS.items()
    }
    gauges = {n: Gauge(n, description=said, tag_keys=("run",)) for n, said in GAUGES.items()}
    left = {"units": len(units), "rows": sum(unit.rows for unit in units)}
    run = {"run": run_id}

    def count(receipt: Receipt | None) -> None:
        if receipt:
            left["units"] -= 1
            left["rows"] -= receipt.record.rows_in
        for name, labels, much in counted(receipt) if receipt else ():
            if much > 0:  # Ray refuses to count nothing
                counters[name].inc(much, {**run, **labels})
        for name, value in left.items():
            gauges[f"embedmill_{name}_left"].set(value, run)

    count(None)
    return count


def _load(batch: pa.Table, job: bytes) -> pa.Table:
    """Unit -> Prepared; its Receipt, if another driver was faster; itself, to be encoded apart."""
    head = job_of(job, ray.__version__)
    if head.stopped:
        return CELL.empty_table()
    tokenizer = _tokenizer(job)
    return cells(
        adopted(head.plan, unit) or attempts.prepare(head.plan, unit, tokenizer)
        for unit in values(batch)
    )


class _Encode:
    """Prepared -> Encoded, in an actor that holds one encoder. Receipts pass through."""

    def __init__(self, job: bytes) -> None:
        self.job = job_of(job, ray.__version__)
        self.plan = self.job.plan
        self.encoder = load.load_encoder(self.plan)
        self.canary = Canary(self.plan, self.encoder)
        self.restarted = _restarted()
        _internal_kv_put(_mark(self.job), b"")

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.job.stopped:
            return CELL.empty_table()
        return cells(map(self._encode, values(batch)))

    def _encode(self, given: Prepared | Unit | Receipt) -> Encoded | Receipt:
        if isinstance(given, Receipt):
            return given
        unit = given.unit if isinstance(given, Prepared) else given
        if done := adopted(self.plan, unit):
            return done
        # Ray gives a unit of which an actor died to it again, without loading it again.
        if given is unit or (self.restarted and not attempts.begin(self.plan, unit)):
            return encode_apart(self.plan, unit)
        encoded = flow.encode(self.plan, self.encoder, given)
        try:
            self.canary.check()
        except ModelError as error:
            # Nothing of this process is to be trusted: Ray replaces it and redoes its units.
            say(f"{error}")
            os._exit(1)
        return encoded


def _restarted() -> bool:
    """Whether the actor that is this process has died before."""
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)


def _commit(batch: pa.Table, job: bytes) -> pa.Table:
    """Encoded -> Receipt."""
    head = job_of(job, ray.__version__)
    return cells(_committed(head.plan, given) for given in values(batch))


def _committed(plan: Plan, given: Encoded | Receipt) -> Receipt:
    if isinstance(given, Receipt):
        return given
    began = time.perf_counter()
    record = flow.commit(plan, given)
    attempts.end(plan, given.unit)
    return Receipt.of(record, given, time.perf_counter() - began)


@functools.lru_cache(maxsize=2)
def _tokenizer(job: bytes) -> Tokenizer:
    """The plan's tokenizer, once per worker process."""
    return load.load_tokenizer(job_of(job, ray.__version__).plan)


STAGES = Stages(_load, _Encode, _commit)
