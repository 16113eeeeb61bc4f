"""The specs that we ship load, and stay short enough to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedmill.schemas.spec_file.load import load_spec

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted((ROOT / "jobs" / "specs").glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_shipped_spec_loads_and_has_a_comment_a_line(path, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_DATA", "/data")
    load_spec(str(path))
    for line in path.read_text(encoding="utf-8").splitlines():
        assert line.rstrip().endswith(":") or "# " in line, f"no word about: {line}"


def test_the_quick_start_needs_no_environment_and_ships_its_data(monkeypatch):
    monkeypatch.delenv("EMBEDMILL_DATA", raising=False)
    spec = load_spec(str(ROOT / "jobs" / "specs" / "quickstart.yaml"))
    assert (ROOT / str(spec.input.path)).is_file()
    notice = (ROOT / "jobs" / "specs" / "data" / "NOTICE.md").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University." in notice
