"""What tests of faults share: the job that is disturbed, and rows that kill who handles them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.scene import Scene, make_scene

ROOT = Path(__file__).resolve().parents[2]
DEADLY = Path(__file__).parent / "deadly"


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, write_texts: Callable[..., Path]
) -> Scene:
    """The job into a folder."""
    folder = tmp_path_factory.mktemp("scene")
    return make_scene(folder, str(tiny_bert), write_texts, str(folder / "out"))


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
