"""Brings a model's files from a bucket to this machine, each version of them once."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from embedmill.pipeline.identity import digest
from embedmill.pipeline.store.client import split
from embedmill.pipeline.store.globs import fits
from embedmill.pipeline.store.objects import download, list_objects
from embedmill.schemas.errors import ModelError


def fetch_folder(uri: str, patterns: tuple[str, ...]) -> Path:
    """A folder here with those files of a folder in a bucket; ModelError if there are none.

    It lies in the user's cache, under a hash of what the store says of the files.
    """
    bucket, root = split(uri)
    start = len(root) + bool(root)
    found = {
        path[start:]: about
        for path, about in sorted(list_objects(uri))
        if any(fits(path[start:].split("/"), pattern.split("/")) for pattern in patterns)
    }
    if not found:
        raise ModelError("MODEL_MISSING", uri, "no such folder", "check model.name")
    versions = [[name, about.size, about.version] for name, about in found.items()]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedmill/models"
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / digest([uri.rstrip("/"), versions])[:32]
    with (cache / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers of this machine wait for one fetch
        if not home.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                for name, about in found.items():
                    target = Path(scratch, home.name, name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    download("/".join(filter(None, (bucket, root, name))), about, target)
                Path(scratch, home.name).rename(home)
    return home
