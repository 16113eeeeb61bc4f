"""Embedmill's Python API: the words of the command line as functions.

import embedmill
report = embedmill.run("my.yaml")
hits = embedmill.search("s3://bucket/vectors", "yellow sour fruit")
"""

from __future__ import annotations

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
    return _run(load_spec(spec, sets)).to_json()


def plan(spec: str, *sets: str) -> dict[str, Any]:
    """What running a spec file would do."""
    return _plan(load_spec(spec, sets))


def index(spec: str, *sets: str) -> dict[str, Any]:
    """Loads the output of a spec file into its sinks; returns what became of each."""
    return _index(load_spec(spec, sets))
