"""How many encoders a cluster has room for, what each asks of Ray, and when to stop waiting.

No ray here: nodes are (resources, how many of them), as Ray and its launcher describe them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from embedmill.pipeline.load import model_of
from embedmill.schemas.errors import TryAgain
from embedmill.schemas.plan import Plan, Unit
from embedmill.schemas.spec import Encoders, Run

Nodes = list[tuple[dict[str, float], int]]

FEED_CPUS, LOAD_CPUS, COMMIT_CPUS = 0.1, 0.5, 0.25
# Threads of a process with a GPU: one feeds the device, one makes the last unit's table, one has
# the next unit's packs at hand. A CPU encoder has the threads of the plan for itself.
GPU_LANES = 3
# Where an autoscaler runs whose limits we cannot see: more than it grants stay pending.
UNSEEN_ROOM = 64
# Matrix operations a second that even an encoder in trouble reaches, and the time a cloud may
# take to bring a node. Beyond both something hangs.
SLOWEST_FLOPS = {"cpu": 2e9, "cuda": 1e12}
PATIENCE_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Bounds of the encoder pool and what each encoder asks of Ray."""

    least: int
    most: int
    initial: int
    cpus: float
    gpus: float
    lanes: int = 1  # threads of its process that each have a unit


def size_pool(
    plan: Plan, run: Run, units: int, alive: Nodes, possible: Nodes | None = None
) -> Pool:
    """The pool for so many units; TryAgain if there is no room, now or later.

    `possible` are the nodes that an autoscaler may run, None if there is no autoscaler; [] if there
    is one that does not say. Each node keeps a little of a CPU for reading and committing, or
    encoders could fill the cluster and wait for ever.
    """
    wanted = run.encoders
    per_gpu = wanted.per_gpu if isinstance(wanted, Encoders) else 1
    gpus = 1 / per_gpu if plan.settings.device == "cuda" else 0.0
    nodes = [*alive, *(possible or [])]
    largest = max((node.get("CPU", 0) for node, _ in nodes), default=0)
    # A node smaller than the frozen thread count still gets an encoder: threads only queue.
    threads = 1.0 if gpus else max(1.0, min(plan.settings.threads, largest))

    def hosted(node: dict[str, float]) -> int:
        """Encoders on one such node."""
        if gpus:
            return int(node.get("GPU", 0) * per_gpu) if node.get("CPU", 0) else 0
        return int(node.get("CPU", 0) // threads)

    room = max(sum(hosted(n) * count for n, count in some) for some in (alive, possible or []))
    if possible == []:
        room = max(room, UNSEEN_ROOM)
    _refuse_too_many(plan, run, room, autoscaled=possible is not None)
    spare = FEED_CPUS + LOAD_CPUS + COMMIT_CPUS
    shares = [(node["CPU"] - spare) / n for node, _ in nodes if (n := hosted(node))]
    cpus, lanes = max(0.1, min([threads, *shares])), GPU_LANES if gpus else 1
    if isinstance(wanted, Encoders):
        return Pool(wanted.min, wanted.max, wanted.min, cpus, gpus, lanes)
    count = wanted if isinstance(wanted, int) else max(1, min(room, units))
    # Full size from the start: a pool that grows by itself loses minutes. A cloud's may shrink.
    least = 1 if possible is not None and wanted == "auto" else count
    return Pool(least, count, count, cpus, gpus, lanes)


def _refuse_too_many(plan: Plan, run: Run, room: int, autoscaled: bool) -> None:
    wanted = run.encoders.min if isinstance(run.encoders, Encoders) else run.encoders
    if room == 0:
        more = ", nor can its autoscaler add one" if autoscaled else ""
        what = f"no node has room for an encoder on {plan.settings.device}{more}"
        do = "add such a node, or set run.device"
    elif wanted != "auto" and wanted > room:
        what = f"{wanted} encoders were asked for, there is room for {room}"
        do = "lower run.encoders"
    else:
        return
    raise TryAgain("NO_RESOURCES", run.address or "ray", what, do)


def autoscaler_runs(status: bytes | None) -> bool:
    """Whether a cluster has an autoscaler, from what its monitor last said.

    A monitor without one reports as well, and takes each node for a kind of its own, `node_ID`.
    """
    try:
        kinds = json.loads(status or b"{}")["autoscaler_report"]["active_nodes"]
        return any(not re.fullmatch("node_[0-9a-f]{20,}", kind) for kind in kinds)
    except (ValueError, KeyError, TypeError):
        return False


def launcher_nodes(path: Path) -> Nodes | None:
    """Nodes that `ray up` allows, from the file it leaves on the head; None if there is none."""
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
        kinds = config["available_node_types"]
        head = config.get("head_node_type")
        return [
            (kind.get("resources") or {}, kind.get("max_workers", 0))
            for name, kind in kinds.items()
            if name != head
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None


def patience(plan: Plan, units: list[Unit]) -> float:
    """Seconds without any finished step after which a run is taken to hang."""
    tokens = max(unit.rows for unit in units) * plan.model["max_tokens"]
    work = 2 * model_of(plan).flops_per_token * tokens
    return PATIENCE_SECONDS + work / SLOWEST_FLOPS[plan.settings.device]
