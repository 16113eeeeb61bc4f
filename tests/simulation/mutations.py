"""Ways to break the protocol, each a small change of the shipped code or of what a store promises.

A simulator that did not find one of them would not find it in the code either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import getmembers, isfunction

from tests.simulation import broken_commit, broken_plan, invariants
from tests.simulation.broken_commit import Patches

MUTATIONS: list[Callable[[], Patches]] = [
    function
    for module in (broken_commit, broken_plan)
    for name, function in getmembers(module, isfunction)
    if function.__module__ == module.__name__ and name[0] != "_"
]


@contextmanager
def mutated(mutation: Callable[[], Patches]) -> Iterator[None]:
    """While entered, the shipped code has one mistake more."""
    invariants.undisturbed.clear()
    with ExitStack() as stack:
        for change in mutation():
            stack.enter_context(change)
        yield
    invariants.undisturbed.clear()
