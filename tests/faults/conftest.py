"""Rows that kill whoever handles them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLY = Path(__file__).parent / "deadly"


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes rows deadly for the processes that are started from now on; not for this one."""

    def make(*pairs: str) -> None:
        monkeypatch.setenv("EMBEDMILL_TEST_DEADLY", ",".join(pairs))
        monkeypatch.setenv("PYTHONPATH", f"{DEADLY}:{ROOT}")
        monkeypatch.syspath_prepend(str(DEADLY))

    return make


def token(folder: Path, word: str) -> int:
    """The id of a word of a tiny model."""
    return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"][word]
