"""Thousands of histories of the shipped planner, committer and gc, none of which may go wrong."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator

import pytest

from embedmill.pipeline.store.output import BucketStore, LocalStore
from tests.patience import HANG
from tests.simulation.broken_commit import Patches, what_stands_is_mine
from tests.simulation.house import furnished
from tests.simulation.mutations import MUTATIONS, mutated
from tests.simulation.report import Played, explain, smallest
from tests.simulation.script import FAULTS, draw
from tests.simulation.storage import SimulatedStore
from tests.simulation.world import play

pytestmark = pytest.mark.simulation
SECONDS, LEAST = float(os.environ.get("EMBEDMILL_SIMULATION_SECONDS", 20)), 500
ENOUGH = 1000  # seeds in which every mutation must be found; most take a few


@pytest.fixture(autouse=True)
def house() -> Iterator[None]:
    """The shipped code in simulated worlds."""
    with furnished():
        yield


@pytest.mark.timeout(HANG * 3)
def test_no_history_breaks_a_promise() -> None:
    """As many as the time allows, and of every kind."""
    total, began, seed = Played(), time.monotonic(), 0
    while seed < LEAST or time.monotonic() - began < SECONDS:
        total.add(seed, play(draw(seed)))
        if total.failed:
            pytest.fail(explain(seed), pytrace=False)
        seed += 1
    print(total)
    assert FAULTS.keys() == total.happened.keys()
    ends = {"ok", "Killed", "OUTPUT_CONFLICT", "OTHER_FINGERPRINT", "INPUT_CHANGED", "INTERRUPTED"}
    assert {f"run {end}" for end in ends} <= total.ends.keys()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_protocol_is_found(mutation: Callable[[], Patches]) -> None:
    with mutated(mutation):
        found = next((seed for seed in range(ENOUGH) if play(draw(seed)).violations), None)
    assert found is not None, mutation.__doc__
    print(f"found by seed {found}")


def test_equal_seeds_give_equal_histories() -> None:
    for seed in range(10):
        assert play(draw(seed)).trace == play(draw(seed)).trace


def test_a_failing_seed_is_told_in_few_lines() -> None:
    """Two runs and what keeps the first from seeing the second are all that this mistake takes."""
    with mutated(what_stands_is_mine):
        seed = next(seed for seed in range(ENOUGH) if play(draw(seed)).violations)
        script = smallest(draw(seed))
        assert len(script) <= 6 < len(draw(seed))
        told = explain(seed)
    assert "VIOLATION" in told
    assert f"seed {seed}" in told


@pytest.mark.parametrize("real", [LocalStore, BucketStore])
def test_the_simulated_store_has_the_verbs_of_a_real_one(real: type) -> None:
    def verbs(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {n: [*inspect.signature(m).parameters] for n, m in methods if n[0] != "_"}

    assert verbs(real) == verbs(SimulatedStore)
