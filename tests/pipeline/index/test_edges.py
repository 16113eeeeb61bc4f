"""The ends of the scale: no rows, few rows, whole numbers as ids, two at once, a bucket."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.run import run
from embedmill.jobs.search.exact import search
from embedmill.schemas.spec_file.load import dump_spec
from tests.conftest import ROOT
from tests.pipeline.index.conftest import Follower, Stage, spec_of
from tests.pipeline.store import conftest as stores

bucket, servers = stores.bucket, stores.servers  # fixtures
TABLES = {
    "nothing": pa.table({"id": pa.array([1, 2]), "text": ["", None]}),
    "few": pa.table({"id": pa.array([2**62, -5, 7]), "text": ["lemon", "rain map", "lemon"]}),
}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> dict[str, Path]:
    """Outputs of no row and of three, one after the other of one corpus."""
    folder, found = tmp_path_factory.mktemp("small"), {}
    (folder / "in").mkdir()
    for name, table in TABLES.items():
        pq.write_table(table, folder / "in" / "a.parquet")
        quality = {"quality": {"reject_rate": {"warn": None}}}
        run(spec_of(folder / "in", tiny_bert, folder / "out", keep=(), output=quality))
        found[name] = Path(shutil.copytree(folder / "out", folder / name))
    return found


def test_no_rows_then_a_few_then_none(follower: Follower, small: dict[str, Path]) -> None:
    assert follower.index(small["nothing"])["records"] == 0
    assert follower.content() == {}
    assert search(str(follower.out), "lemon", sink=follower.name)["hits"] == []
    report = follower.index(small["few"])
    assert (report["records"], report["recall"], report["sampled"]) == (3, 1.0, 3)
    hits = search(str(follower.out), "lemon", sink=follower.name, where=["id>0"])["hits"]
    assert [hit["id"] for hit in hits] == [7, 2**62] or [hit["id"] for hit in hits] == [2**62, 7]
    assert follower.index(small["nothing"])["removed"] in (0, 3)
    assert follower.content() == {}


@pytest.mark.slow
def test_an_index_over_no_rows_is_made_when_they_come(
    follower: Follower, small: dict[str, Path]
) -> None:
    assert follower.index(small["nothing"], type="hnsw")["records"] == 0
    assert follower.index(small["few"], type="hnsw")["recall"] == 1.0


@pytest.mark.slow
def test_two_at_once_wait_for_each_other(
    follower: Follower, stages: dict[str, Stage], tmp_path: Path
) -> None:
    if "url" in follower.entry:
        pytest.skip("a server of Qdrant has no lock: one at a time is asked for")
    spec = tmp_path / "job.yaml"
    out = stages["base"].out
    spec.write_text(dump_spec(spec_of(out, out, out, [follower.entry])))
    command = [sys.executable, "-m", "embedmill", "index", str(spec)]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    ends = [(one.communicate()[1], one.returncode) for one in both]
    if follower.entry["sink"] == "lance":  # a bucket has no lock; what is there twice is mended
        follower.out = out
        follower.index()
    else:
        assert [code for _, code in ends] == [0, 0], ends
    follower.out = out
    assert len(follower.content()) == stages["base"].rows


def test_lance_in_a_bucket(
    bucket: Callable[[str], Any],
    stages: dict[str, Stage],
    tmp_path: Path,
) -> None:
    place = bucket("s3")
    follower = Follower({"sink": "lance", "path": f"{place.uri}/an index.lance"})
    assert follower.index(stages["base"].out)["recall"] == 1.0
    report = follower.index(stages["edited"].out)
    assert (report["added"], report["removed"], report["beside"]) == (23, 6, False)
    here = Follower({"sink": "lance", "path": str(tmp_path / "here.lance")})
    here.index(stages["edited"].out)
    assert follower.content() == here.content()
    found = search(str(follower.out), "lemon", k=3, sink="lance", where=["year>2000"])
    assert found["hits"]
