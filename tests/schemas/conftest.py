"""Fixtures of the loader's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedmill.schemas.errors import SpecError
from embedmill.schemas.spec import Spec
from embedmill.schemas.spec_file.load import load_spec


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Loads a text as a spec: load(text, *sets)."""
    monkeypatch.chdir(tmp_path)

    def of(text: str | bytes, *sets: str) -> Spec:
        data = text.encode() if isinstance(text, str) else text
        Path("job.yaml").write_bytes(data)
        return load_spec("job.yaml", sets)

    return of


@pytest.fixture
def problems(load):
    """The lines of problems of a text that is wrong."""

    def of(text: str | bytes, *sets: str) -> list[str]:
        with pytest.raises(SpecError) as caught:
            load(text, *sets)
        assert caught.value.exit_code == 2
        return str(caught.value).splitlines()

    return of
