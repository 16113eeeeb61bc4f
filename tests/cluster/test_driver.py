"""The driver loop itself, with stages that only sleep: chunks in, every unit once, lanes beside."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest
import ray

from pipeline.run import cluster, feed
from pipeline.run.encoders import Pool
from pipeline.run.session import quiet_context
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
