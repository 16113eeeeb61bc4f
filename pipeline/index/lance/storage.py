"""What Lance wants beside the environment, and what it says, in our words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from embedmill.pipeline.store.credentials import settings
from embedmill.schemas.errors import SpecError, StorageError

RESERVED = ("_rowid", "_rowaddr", "_distance", "_score", "_rowoffset")


def options(path: str) -> dict[str, str]:
    """What the store of a path wants beside the environment, which Lance reads itself."""
    bucket, _, _ = path.partition("://")[2].partition("/")
    if "://" not in path:
        return {}
    found = settings(f"{path.partition('://')[0]}://{bucket}", dict(os.environ))
    keys = found.pop("credential_provider", dict)()
    told = {
        "allow_http": "true",
        **{f"aws_{k}": v for k, v in found.items() if k in ("region", "endpoint")},
    }
    return told | {f"aws_{k}": v for k, v in keys.items() if k != "expires_at" and v}


@contextmanager
def ours(path: str) -> Iterator[None]:
    """Makes a StorageError of what Lance says."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, pa.ArrowNotImplementedError) as error:
        raise failure(path, error) from None


def failure(path: str, error: Exception) -> Exception:
    text = str(error)
    if "Substrait" in text or "substrait" in text or "no kernel" in text:
        kind = re.search(r"(?:Type from|Substrait type:) (\w+)", text)
        what = "lance cannot filter by a column of that type; search the parts"
        if kind:
            what = f"lance cannot filter a dataset that has a column of type {kind[1]}; "
            what += "search the parts, or do not keep it"
        return SpecError("WHERE", "", f"search: {what}")
    what = re.sub(
        r", /\S+:\d+:\d+$", "", text.strip().splitlines()[0] if text.strip() else "failed"
    )
    return StorageError("SINK", path, what[:300], "mend it and index again")


def refuse(names: list[str]) -> None:
    """SpecError for a column name that Lance cannot have."""
    if bad := [n for n in names if not n or "." in n or "`" in n or n in RESERVED]:
        what = f"index: lance has no column of the name {bad[0]!r}; rename it"
        raise SpecError("SINK", "", what)
