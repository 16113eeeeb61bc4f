"""The runner on Ray Data, where one dataset row is one unit.

    plan table -> one row a block -> load (CPU task) -> encode (actor pool) -> commit (CPU task)

Ray may cut, merge and retry blocks as it likes but never splits a row, so a unit stays whole.
Ray owns scheduling, backpressure, retries and the pool; what a unit is and when it is committed
stays ours. The stages ask for different resources, or Ray would fuse the tokenizer into the
encoder's process and run them in turn. Beside `jobs/submit.py` this is the only file that imports
ray.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge

from pipeline import flow, load
from pipeline.batches import Encoded, Prepared
from pipeline.canary import Canary
from pipeline.run import attempts
from pipeline.run.apart import encode_apart
from pipeline.run.encoders import (
    COMMIT_CPUS,
    FEED_CPUS,
    LOAD_CPUS,
    Nodes,
    Pool,
    autoscaler_runs,
    launcher_nodes,
    patience,
    size_pool,
)
from pipeline.run.failures import ours, unreachable
from pipeline.run.inline import cores
from pipeline.run.manners import handlers_kept, muted
from pipeline.run.metrics import COUNTERS, GAUGES, counted
from pipeline.run.receipt import Receipt, adopted
from pipeline.run.worker import Job, job_of, versions
from pipeline.tokens import Tokenizer
from schemas.errors import ModelError
from schemas.plan import Plan, Unit
from schemas.spec import Encoders, Run

CELL = pa.schema([("cell", pa.large_binary())])


def run_ray(plan: Plan, units: list[Unit], stop_name: str, run: Run) -> Iterator[Receipt]:
    """Commits every unit on the cluster; yields receipts as they come.

    Once the object `stop_name` is in the output's store, no task begins a unit.
    """
    if not units:
        return
    # Ray prints what its raylet notices to stdout, which is for our data.
    with redirect_stdout(sys.stderr), _session(plan, run, units) as pool:
        job = Job(plan, stop_name, versions(ray.__version__))
        dataset = _pipeline(pickle.dumps(job), units, pool)
        count = _counting(stop_name.split("/")[-2], units)
        try:
            for batch in dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for cell in batch.column("cell"):
                    receipt: Receipt = pickle.loads(cell.as_py())
                    count(receipt)
                    yield receipt
        except (RayError, ExecutionTimeoutError) as error:
            raise ours(error) from None


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


def _pipeline(job: bytes, units: list[Unit], pool: Pool) -> Dataset:
    table = pa.table([[pickle.dumps(unit) for unit in units]], schema=CELL)
    one_a_call: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    feed = ray.data.from_arrow(table).repartition(target_num_rows_per_block=1)
    # It would ask for a whole CPU, and wait for ever where encoders leave less; Ray has no option.
    feed._logical_plan.dag.ray_remote_args["num_cpus"] = FEED_CPUS
    return (
        feed.map_batches(_load, fn_kwargs={"job": job}, num_cpus=LOAD_CPUS, **one_a_call)
        .map_batches(
            _Encode,
            fn_constructor_kwargs={"job": job},
            compute=ActorPoolStrategy(
                min_size=pool.least,
                max_size=pool.most,
                initial_size=pool.initial,
                max_tasks_in_flight_per_actor=4,
                max_concurrent_calls_per_actor=2,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            **one_a_call,
        )
        .map_batches(_commit, fn_kwargs={"job": job}, num_cpus=COMMIT_CPUS, **one_a_call)
    )


def _load(batch: pa.Table, job: bytes) -> pa.Table:
    """Unit -> Prepared; its Receipt, if another driver was faster; itself, to be encoded apart."""
    head = job_of(job, ray.__version__)
    if head.stopped:
        return CELL.empty_table()
    tokenizer = _tokenizer(job)
    units = [pickle.loads(cell) for cell in _each(batch)]
    return _cells(
        adopted(head.plan, unit) or attempts.prepare(head.plan, unit, tokenizer) for unit in units
    )


class _Encode:
    """Prepared -> Encoded, in an actor that holds one encoder. Receipts pass through."""

    def __init__(self, job: bytes) -> None:
        self.job = job_of(job, ray.__version__)
        self.plan = self.job.plan
        self.encoder = load.load_encoder(self.plan)
        self.canary = Canary(self.plan, self.encoder)
        self.restarted = _restarted()

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.job.stopped:
            return CELL.empty_table()
        return _cells(self._encode(pickle.loads(cell)) for cell in _each(batch))

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
            print(f"embedmill: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        return encoded


def _restarted() -> bool:
    """Whether the actor that is this process has died before."""
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)


def _commit(batch: pa.Table, job: bytes) -> pa.Table:
    """Encoded -> Receipt."""
    head = job_of(job, ray.__version__)
    receipts = []
    for cell in _each(batch):
        began = time.perf_counter()
        given = pickle.loads(cell)
        if not isinstance(given, Receipt):
            record = flow.commit(head.plan, given)
            attempts.end(head.plan, given.unit)
            given = Receipt.of(record, given, time.perf_counter() - began)
        receipts.append(given)
    return _cells(receipts)


@functools.lru_cache(maxsize=2)
def _tokenizer(job: bytes) -> Tokenizer:
    """The plan's tokenizer, once per worker process."""
    return load.load_tokenizer(job_of(job, ray.__version__).plan)


def _each(batch: pa.Table) -> Iterator[memoryview]:
    """The cells of a batch without a copy: pickle reads straight from Ray's shared memory."""
    for scalar in batch.column("cell"):
        yield memoryview(scalar.as_buffer())


def _cells(values: Any) -> pa.Table:
    return pa.table([[pickle.dumps(value, protocol=5) for value in values]], schema=CELL)


@contextmanager
def _session(plan: Plan, run: Run, units: list[Unit]) -> Iterator[Pool]:
    """A Ray cluster for one run: the given one, or a local one on loopback."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes are not for our users
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray would run an encoder at nice 15: beside any other process it would wait for its cores.
    os.environ.setdefault("RAY_worker_niceness", "0")
    address = run.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    threads, count = plan.settings.threads, _wished(run, plan.settings.threads)
    if not address:
        # One logical CPU beside the encoders: reading and writing never wait for one to end.
        quiet.update(
            num_cpus=count * threads + 1, include_dashboard=False, _node_ip_address="127.0.0.1"
        )
    try:
        with muted(), handlers_kept():
            ray.init(address=address or "local", **quiet)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise unreachable(address or "local Ray", str(error) or type(error).__name__) from None
    try:
        alive: Nodes = [(node["Resources"], 1) for node in ray.nodes() if node["Alive"]]
        if address:
            pool = size_pool(plan, run, len(units), alive, _autoscaled())
            _tell_idle_gpus(plan, alive)
        elif plan.settings.device == "cpu":
            whole = size_pool(plan, run, len(units), [({"CPU": count * threads}, 1)])
            pool = replace(whole, cpus=float(threads))
        else:
            pool = size_pool(plan, run, len(units), alive)
        _quiet_context(patience(plan, units))
        yield pool
    finally:
        ray.shutdown()


def _wished(run: Run, threads: int) -> int:
    """Encoders of a local Ray."""
    wanted = run.encoders.max if isinstance(run.encoders, Encoders) else run.encoders
    return max(1, cores() // threads) if wanted == "auto" else wanted


def _autoscaled() -> Nodes | None:
    """Nodes that the cluster's autoscaler may run; [] if it does not say, None without one."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    if not autoscaler_runs(_internal_kv_get(DEBUG_AUTOSCALING_STATUS)):
        return None
    return launcher_nodes(Path.home() / "ray_bootstrap_config.yaml") or []


def _tell_idle_gpus(plan: Plan, alive: Nodes) -> None:
    if plan.settings.device == "cpu" and any(node.get("GPU") for node, _ in alive):
        line = "embedmill: the cluster has GPUs that stay idle; run.device: cuda would use them"
        print(line, file=sys.stderr)


def _quiet_context(patience: float) -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = patience
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
