"""What every process of a cluster holds before its first unit: the job, found fit to do it."""

from __future__ import annotations

import functools
import pickle
import platform
from dataclasses import dataclass

from embedmill.pipeline.canary import canary_name
from embedmill.pipeline.parts.table import software
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import StorageError, TryAgain
from embedmill.schemas.plan import Plan

# Of the provenance, what must be equal on all nodes; a CPU and a CUDA build of torch are.
EQUAL = ("python", "ray", "torch", "pyarrow", "tokenizers")


@dataclass(frozen=True, slots=True)
class Job:
    """What the driver tells every worker, once."""

    plan: Plan
    stop_name: str
    software: dict[str, str]  # the driver's

    @property
    def stopped(self) -> bool:
        """Whether the run has been asked to begin no further unit."""
        return open_store(self.plan.output).size(self.stop_name) is not None


def versions(ray: str) -> dict[str, str]:
    """This process's software, builds left out."""
    found = {"python": platform.python_version(), "ray": ray, **software()}
    return {name: found[name].partition("+")[0] for name in EQUAL}


@functools.lru_cache(maxsize=2)
def job_of(pickled: bytes, ray: str) -> Job:
    """The job, in a worker process; TryAgain or StorageError if its node is not fit for it."""
    job: Job = pickle.loads(pickled)
    here, where = versions(ray), platform.node()
    others = [name for name in EQUAL if here[name] != job.software[name]]
    if others:
        differ = ", ".join(f"{name} {here[name]} for {job.software[name]}" for name in others)
        raise TryAgain(
            "SOFTWARE_DIFFERS",
            where,
            f"this node has {differ} of the driver",
            "give driver and workers one image",
        )
    # The driver has made the canary: a node that does not see it would write parts nobody finds.
    if open_store(job.plan.output).size(canary_name(job.plan)) is None:
        raise StorageError(
            "NOT_SHARED",
            job.plan.output,
            f"is another folder on node {where} than for the driver",
            "use a path that is mounted on every node, or object storage",
        )
    return job
