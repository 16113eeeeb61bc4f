"""A Ray cluster for one run: the one that is given, or a local one on loopback."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext

from embedmill.pipeline.run.failures import unreachable
from embedmill.pipeline.run.inline import cores
from embedmill.pipeline.run.pool_size import (
    Nodes,
    Pool,
    autoscaler_runs,
    launcher_nodes,
    patience,
    size_pool,
)
from embedmill.pipeline.run.signals import handlers_kept, muted
from embedmill.schemas.errors import EmbedmillError
from embedmill.schemas.plan import Plan, Unit
from embedmill.schemas.spec import Encoders, Run
from embedmill.schemas.terminal import say


@contextmanager
def session(plan: Plan, run: Run, units: list[Unit]) -> Iterator[Pool]:
    """Connects, gives the pool of encoders that has room there, and leaves."""
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
    except (EmbedmillError, SystemExit):  # a signal, while Ray was half there
        ray.shutdown()
        raise
    except Exception as error:  # Ray raises many kinds here, and a plain one if a node of it dies
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
        quiet_context(patience(plan, units))
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
        say("the cluster has GPUs that stay idle; run.device: cuda would use them")


def quiet_context(patience: float) -> None:
    """What Ray Data shall do and shall not say, for this process."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Else an error of ours comes wrapped, and what it was is lost between the processes.
    context.raise_original_map_exception = True
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = patience
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
