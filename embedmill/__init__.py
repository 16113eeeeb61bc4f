"""Embedmill's Python API: the words of the command line as functions.

import embedmill
if __name__ == "__main__":  # a run may start processes, and each reads the script again
    report = embedmill.run("my.yaml")
    hits = embedmill.search("s3://bucket/vectors", "yellow sour fruit")

Importing it is light: a function's module is imported when the function is first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import multiprocessing
from typing import TYPE_CHECKING, Any

from embedmill.schemas.errors import (
    ConflictError,
    EmbedmillError,
    FaultBudgetError,
    InputError,
    Interrupted,
    ModelError,
    QualityError,
    SpecError,
    StorageError,
    StoreAway,
    TryAgain,
)

if TYPE_CHECKING:
    from embedmill.jobs.dataset import dataset
    from embedmill.jobs.search.exact import search

__all__ = [
    "ConflictError",
    "EmbedmillError",
    "FaultBudgetError",
    "InputError",
    "Interrupted",
    "ModelError",
    "QualityError",
    "SpecError",
    "StorageError",
    "StoreAway",
    "TryAgain",
    "__version__",
    "dataset",
    "index",
    "plan",
    "run",
    "search",
]

_HOMES = {
    "dataset": "embedmill.jobs.dataset",
    "search": "embedmill.jobs.search.exact",
}


def run(spec: str, *sets: str) -> dict[str, Any]:
    """Runs a spec file, with fields overridden as by --set; returns the report."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A process that reads for a run reads the script first, and would run it all again.
        raise SystemExit('embedmill: put the call under `if __name__ == "__main__":`')
    from embedmill.jobs.run import run as run_spec
    from embedmill.schemas.spec_file.load import load_spec

    return run_spec(load_spec(spec, sets)).to_json()


def plan(spec: str, *sets: str) -> dict[str, Any]:
    """Returns what running a spec file would do; writes nothing."""
    from embedmill.jobs.estimate.plan import plan as plan_spec
    from embedmill.schemas.spec_file.load import load_spec

    return plan_spec(load_spec(spec, sets))


def index(spec: str, *sets: str) -> dict[str, Any]:
    """Loads the output of a spec file into its sinks; returns what became of each."""
    from embedmill.jobs.index import index as index_spec
    from embedmill.schemas.spec_file.load import load_spec

    return index_spec(load_spec(spec, sets))


def __getattr__(name: str) -> Any:
    """Imports `dataset` and `search`, and reads `__version__`, at first use."""
    if name == "__version__":
        return importlib.metadata.version("embedmill")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'embedmill' has no attribute {name!r}")
