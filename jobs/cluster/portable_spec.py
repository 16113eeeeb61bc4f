"""A spec that is read on another machine: paths whole, and its cluster is the one that runs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from embedmill.schemas.spec import Spec


def travelling(spec: Spec) -> Spec:
    """The spec for a job on a cluster, whatever folder and cluster it was written for."""
    paths = [spec.input.path] if isinstance(spec.input.path, str) else spec.input.path
    changed: dict[str, dict[str, Any]] = {
        "input": {"path": [whole(path) for path in paths]},
        "output": {"path": whole(spec.output.path)},
        "run": {"runner": "ray", "address": None},
    }
    if Path(os.path.expanduser(spec.model.name)).is_dir():
        changed["model"] = {"name": whole(spec.model.name)}
    sections = {
        name: getattr(spec, name).model_copy(update=fields) for name, fields in changed.items()
    }
    return spec.model_copy(update=sections)


def whole(path: str) -> str:
    """An absolute path; a URL as it is."""
    return path if "://" in path else str(Path(os.path.expanduser(path)).absolute())
