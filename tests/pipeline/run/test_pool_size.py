"""How many encoders a cluster gets, what each asks for, and what is said when there is no room."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from embedmill.pipeline.run import pool_size as encoders
from embedmill.pipeline.run.pool_size import autoscaler_runs, launcher_nodes, patience, size_pool
from embedmill.schemas.errors import TryAgain
from embedmill.schemas.plan import Shard, Slice, Unit
from embedmill.schemas.spec import Run

SPARE = encoders.FEED_CPUS + encoders.LOAD_CPUS + encoders.COMMIT_CPUS


def plan(device: str = "cpu", threads: int = 4) -> Any:
    settings = SimpleNamespace(device=device, threads=threads)
    return SimpleNamespace(settings=settings, model={"max_tokens": 256})


def run(**fields: Any) -> Run:
    return Run.model_validate(fields)


def node(cpus: float, gpus: float = 0) -> tuple[dict[str, float], int]:
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}, 1


def test_every_core_gets_an_encoder_and_every_node_keeps_room_to_read_and_commit() -> None:
    pool = size_pool(plan(), run(), 1000, [node(0), node(16), node(16)])

    assert (8, 8, 8) == (pool.least, pool.most, pool.initial)
    assert 4 * pool.cpus <= 16 - SPARE + 1e-9
    assert pool.cpus > 3.5


def test_nodes_of_one_core_are_not_filled_by_their_encoder() -> None:
    pool = size_pool(plan(threads=2), run(), 1000, [node(1), node(1), node(1)])

    assert 3 == pool.most
    assert pool.cpus + SPARE <= 1 + 1e-9


def test_a_gpu_gets_its_next_unit_while_the_last_ones_table_is_made() -> None:
    """Of a CPU's threads all are the encoder's: there one unit is encoded at a time."""
    assert 3 == size_pool(plan("cuda"), run(), 1000, [node(16, gpus=1)]).lanes
    assert 1 == size_pool(plan(), run(), 1000, [node(16)]).lanes


def test_there_are_never_more_encoders_than_units() -> None:
    assert 2 == size_pool(plan(), run(), 2, [node(16)]).most


@pytest.mark.parametrize(("per_gpu", "most", "gpus"), [(1, 8, 1.0), (3, 24, 1 / 3)])
def test_replicas_share_a_gpu(per_gpu: int, most: int, gpus: float) -> None:
    wanted = run(encoders={"min": 1, "max": most, "per_gpu": per_gpu})
    pool = size_pool(plan("cuda"), wanted, 1000, [node(16), node(32, gpus=8)])

    assert (1, most, gpus) == (pool.least, pool.most, pool.gpus)
    assert 8 * per_gpu * pool.cpus <= 32 - SPARE + 1e-9
    # Ray counts in ten-thousandths: so many replicas do fit on one GPU.
    assert per_gpu * round(pool.gpus, 4) <= 1


@pytest.mark.parametrize(
    ("fields", "possible", "words"),
    [
        ({}, None, "no node has room for an encoder on cuda; add such a node"),
        ({}, [({"CPU": 8}, 4)], "nor can its autoscaler add one"),
        ({"encoders": 3}, [({"CPU": 8, "GPU": 1}, 2)], "3 encoders were asked for, there is room"),
        ({"encoders": {"min": 3, "max": 9}}, [({"CPU": 8, "GPU": 1}, 2)], "room for 2"),
    ],
)
def test_no_room_is_said_at_once(fields: dict, possible: list | None, words: str) -> None:
    with pytest.raises(TryAgain, match="NO_RESOURCES") as caught:
        size_pool(plan("cuda"), run(**fields), 100, [node(16)], possible)

    assert 75 == caught.value.exit_code
    assert words in str(caught.value)


def test_nodes_that_an_autoscaler_may_add_count() -> None:
    possible = [({"CPU": 16}, 4), ({"CPU": 8, "GPU": 1}, 8)]
    pool = size_pool(plan("cuda"), run(), 1000, [node(0)], possible)

    assert (1, 8, 8) == (pool.least, pool.most, pool.initial)


def test_an_autoscaler_that_does_not_say_is_asked_for_many() -> None:
    assert encoders.UNSEEN_ROOM == size_pool(plan("cuda"), run(), 1000, [node(0)], []).most


@pytest.mark.parametrize(
    ("kinds", "runs"),
    [
        ({"head": 1, "encoder": 2}, True),
        ({"headgroup": 1}, True),
        ({f"node_{'0f' * 28}": 1}, False),
        ({}, False),
    ],
)
def test_an_autoscaler_is_told_from_a_mere_monitor(kinds: dict[str, int], runs: bool) -> None:
    status = json.dumps({"autoscaler_report": {"active_nodes": kinds}}).encode()
    assert runs is autoscaler_runs(status)
    for broken in (None, b"", b"{", b"[]", b"{}"):
        assert not autoscaler_runs(broken)


def test_the_launchers_file_tells_the_nodes(tmp_path: Path) -> None:
    kinds = {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "encoder": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 8},
    }
    path = tmp_path / "ray_bootstrap_config.yaml"
    assert launcher_nodes(path) is None
    path.write_text(yaml.safe_dump({"head_node_type": "head", "available_node_types": kinds}))
    assert [({"CPU": 8, "GPU": 1}, 8)] == launcher_nodes(path)
    for broken in ("", "- a list", "available_node_types: 3", "\t"):
        path.write_text(broken)
        assert launcher_nodes(path) is None


def test_patience_grows_with_the_largest_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "model_of", lambda _: SimpleNamespace(flops_per_token=1e7))
    shard = Shard("/a", "a", 1, "1", "", 10_000)

    def units(*rows: int) -> list[Unit]:
        return [Unit(str(n), (Slice(shard, 0, n),)) for n in rows]

    small, large = patience(plan(), units(1)), patience(plan(), units(1, 2048))
    assert small < encoders.PATIENCE_SECONDS + 10
    # 2,048 rows of 256 tokens at 2e7 operations each, 2e9 a second.
    assert large == pytest.approx(encoders.PATIENCE_SECONDS + 5243, rel=0.01)
    assert patience(plan("cuda"), units(65536)) < 2 * encoders.PATIENCE_SECONDS
