"""Writes an output's page to a file."""

from __future__ import annotations

import os
from pathlib import Path

from embedmill.schemas.errors import SpecError


def write_html(output: str, file: str) -> None:
    """Writes the output's page: whole or not at all, since somebody may be looking at the last."""
    try:
        from embedmill.jobs.page.make import make_page
    except ModuleNotFoundError as error:
        what = f"report: --html needs {error.name}; run pip install 'embedmill[report]'"
        raise SpecError("EXTRA_MISSING", "", what) from None
    target, page = Path(file), make_page(output)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        scratch.write_text(page, encoding="utf-8")
        scratch.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from None
    finally:
        scratch.unlink(missing_ok=True)
