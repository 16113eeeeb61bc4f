"""Three Ray nodes on this machine, in a process of their own, that takes orders on stdin.

python tests/cluster/nodes.py CPUS...     prints the address; then a line an order:
kill      ends by force a worker node that holds an encoder and no driver; prints its number, or
          "none"
drain     warns it as a cloud warns a spot machine, and ends it so many seconds later
"""

from __future__ import annotations

import sys
import time

import psutil
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from tests.patience import LONG

STORE = 200_000_000
NOTICE = 10  # seconds from the warning to the end


def main() -> None:
    """Starts the nodes, the first as head, and obeys until stdin ends."""
    first, *others = ({"num_cpus": int(n), "object_store_memory": STORE} for n in sys.argv[1:])
    cluster = Cluster(initialize_head=True, head_node_args=first)
    workers = [cluster.add_node(**node) for node in others]
    cluster.wait_for_nodes(timeout=LONG)
    print(cluster.address, flush=True)
    for order in sys.stdin:
        drivers = nodes_of_drivers(cluster.address)
        fit = (n for n, w in enumerate(workers) if w.node_id not in drivers and holds_encoder(w))
        number = next(fit, None)
        if number is not None:
            if order.strip() == "drain":
                drain(cluster.address, workers[number].node_id)
                time.sleep(NOTICE)
            cluster.remove_node(workers.pop(number), allow_graceful=False)
        print("none" if number is None else number, flush=True)
    cluster.shutdown()


def nodes_of_drivers(address: str) -> set[str]:
    """Where drivers are: all are one machine here, and Ray takes a driver to any of them."""
    jobs = GcsClient(address=address).get_all_job_info()
    return {job.driver_address.node_id.hex() for job in jobs.values() if not job.is_dead}


def drain(address: str, node_id: str) -> None:
    """Tells the cluster that a node will be preempted."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = time.time_ns() // 1_000_000 + NOTICE * 1000
    accepted, why = GcsClient(address=address).drain_node(node_id, reason, "spot", deadline)
    assert accepted, why


def holds_encoder(node) -> bool:
    """Whether one of its workers is an encoder."""
    raylet = node.all_processes["raylet"][0].process.pid
    return any(is_encoder(process) for process in psutil.Process(raylet).children())


def is_encoder(process: psutil.Process) -> bool:
    """Whether Ray has named it so; a process may end while it is asked."""
    try:
        return "_Encode" in " ".join(process.cmdline())
    except psutil.Error:
        return False


if __name__ == "__main__":
    main()
