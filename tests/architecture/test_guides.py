"""The guides cannot drift: the codes that they name exist, and none that ends a run is left out."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from embedmill.schemas import errors

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
CODE = re.compile(r"`([A-Z]+(?:_[A-Z0-9]+)+)`")


def test_the_operating_guide_names_only_codes_that_there_are() -> None:
    source = "\n".join(
        path.read_text("utf-8")
        for room in ("schemas", "pipeline", "jobs")
        for path in (ROOT / room).rglob("*.py")
    )
    named = CODE.findall((ROOT / "docs" / "operating.md").read_text("utf-8"))
    assert len(named) > 10
    assert [word for word in named if f'"{word}"' not in source] == []


def test_the_operating_guide_has_every_exit_code() -> None:
    guide = (ROOT / "docs" / "operating.md").read_text("utf-8")
    told = set(re.findall(r"\d+", " ".join(re.findall(r"^\| ([\d, ]+) \|", guide, re.MULTILINE))))

    kinds = [errors.EmbedmillError, *errors.EmbedmillError.__subclasses__()]
    assert {str(kind.exit_code) for kind in kinds} | {"0", "143"} <= told


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*GUIDES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_script_of_the_operating_guide_is_one(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "operating.md").read_text("utf-8")
    (script,) = re.findall(r"^```sh night.sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    file = tmp_path / "night.sh"
    file.write_text(script)

    assert subprocess.run(["sh", "-n", str(file)], check=False).returncode == 0
