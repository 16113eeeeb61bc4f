"""The driver loop itself, with stages that only sleep: chunks in, every unit once, lanes beside."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray
from ray.exceptions import RayError

from embedmill.pipeline.run import on_ray as cluster
from embedmill.pipeline.run import ray_source as feed
from embedmill.pipeline.run.failures import ours
from embedmill.pipeline.run.pool_size import Pool
from embedmill.pipeline.run.session import quiet_context
from embedmill.schemas.errors import InputError
from tests.bench.simulated import Sleep, commit, load, units_of

UNITS, CHUNK = 30, 7

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    quiet = {"include_dashboard": False, "log_to_driver": False, "_node_ip_address": "127.0.0.1"}
    ray.init(num_cpus=2, object_store_memory=200_000_000, **quiet)
    quiet_context(200.0)
    yield
    ray.shutdown()


@pytest.mark.parametrize(("lanes", "most"), [(1, 1), (3, 3)])
def test_every_unit_once_and_as_many_at_a_time_as_there_are_lanes(
    local_ray: None, monkeypatch: pytest.MonkeyPatch, lanes: int, most: int
) -> None:
    monkeypatch.setattr(feed, "CHUNK", CHUNK)
    units = units_of(UNITS, 2000)  # 0.2 s each
    stages = cluster.Stages(load, Sleep, commit)
    dataset = cluster.pipeline(pickle.dumps(10_000), units, Pool(1, 1, 1, 0.5, 0, lanes), stages)
    got = list(cluster.receipts(dataset, lambda: False))

    assert sorted(unit.key for unit in units) == sorted(one.record.unit_key for one in got)
    spans = [one.encode_span for one in got]
    assert most == max(sum(a <= start < b for a, b in spans) for start, _ in spans)


def refuse(batch: pa.Table, job: bytes) -> pa.Table:
    """A reader that finds another file than was planned."""
    raise InputError("INPUT_CHANGED", "a.parquet", "changed since it was planned", "run again")


def test_what_a_worker_raises_is_what_the_run_ends_with(local_ray: None) -> None:
    """Its line, its type and so its exit code; nothing of Ray's."""
    stages = cluster.Stages(refuse, Sleep, commit)
    dataset = cluster.pipeline(pickle.dumps(1), units_of(3, 1), Pool(1, 1, 1, 0.5, 0), stages)
    with pytest.raises(RayError) as caught:
        list(cluster.receipts(dataset, lambda: False))
    found = ours(caught.value)

    assert InputError is type(found)
    assert "INPUT_CHANGED: a.parquet: changed since it was planned; run again" == str(found)
