"""How a command ends that cannot do what it was asked: one line, and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path

from schemas.errors import EmbedmillError, SpecError, StorageError


def fail(error: EmbedmillError, as_json: bool) -> None:
    """Says what went wrong and ends the process with the error's exit code."""
    line = str(error)
    if not isinstance(error, SpecError):  # that one has a line for every problem
        line = "embedmill: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    facts = {"error": str(error), "code": error.code, "exit_code": error.exit_code}
    with contextlib.suppress(BrokenPipeError):  # nobody listens: the exit code still speaks
        print(line, file=sys.stderr, flush=True)
        if as_json:
            print(json.dumps(facts), flush=True)
    sys.exit(error.exit_code)


def storage_error(error: OSError) -> EmbedmillError:
    """An error of the system as one of ours."""
    where = str(error.filename or "")
    return StorageError(
        "STORAGE", where, (error.strerror or str(error)).lower(), "run again when it is mended"
    )


def refuse_shadows() -> None:
    """Our packages have common names: make sure that the ones beside us are the ones imported."""
    home = Path(__file__).resolve().parent.parent
    for name in ("schemas", "pipeline"):
        found = Path(importlib.import_module(name).__file__ or "").resolve().parent.parent
        if found != home:
            raise EmbedmillError(
                "SHADOWED",
                str(found / name),
                f"is imported in place of {home / name}",
                "take it off the Python path",
            )
