"""Embedmill's Python API: the words of the command line as functions.

import embedmill
if __name__ == "__main__":  # a run may start processes, and each reads the script again
    report = embedmill.run("my.yaml")
    hits = embedmill.search("s3://bucket/vectors", "yellow sour fruit")
"""

from __future__ import annotations

import multiprocessing
from typing import Any

from jobs.dataset import dataset
from jobs.index import index as _index
from jobs.plan import plan as _plan
from jobs.run import run as _run
from jobs.search import search
from schemas.load import load_spec

__all__ = ["dataset", "index", "plan", "run", "search"]


def run(spec: str, *sets: str) -> dict[str, Any]:
    """Runs a spec file, with fields overridden as by --set; returns the report."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A process that reads for a run reads the script first, and would run it all again.
        raise SystemExit('embedmill: put the call under `if __name__ == "__main__":`')
    return _run(load_spec(spec, sets)).to_json()


def plan(spec: str, *sets: str) -> dict[str, Any]:
    """What running a spec file would do."""
    return _plan(load_spec(spec, sets))


def index(spec: str, *sets: str) -> dict[str, Any]:
    """Loads the output of a spec file into its sinks; returns what became of each."""
    return _index(load_spec(spec, sets))
