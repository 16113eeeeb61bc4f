"""Small corpora that change from run to run, and runs through the front door."""

from __future__ import annotations

from typing import Any

import pyarrow.dataset as ds

from embedmill.jobs.run import run
from embedmill.schemas.report import RunReport
from tests.pipeline.conftest import Job

WORDS = "lemon river stone honey bread cloud yellow sour fruit deep water north wind".split()
SHARDS, ROWS = 4, 25


def text(n: int) -> str:
    """One of many texts, of one to nine words."""
    return f"{' '.join(WORDS[(n * 5 + i) % 13] for i in range(n % 9))} {n}"


def write(job: Job, shard: int, numbers: list[int], name: str = "", **more: list) -> None:
    columns = {"text": [text(n) for n in numbers], "id": [f"d{n}" for n in numbers], **more}
    job.shard(name or f"{shard}.parquet", 10, **columns)


def numbers(shard: int) -> list[int]:
    return list(range(shard * ROWS, (shard + 1) * ROWS))


def refresh(job: Job, **sections: Any) -> RunReport:
    """A whole run through the front door."""
    sections = {"input": {"id": "id"}, **sections}
    report = run(job.spec(**sections))
    ways = ("encoded", "deduplicated", "reused", "resumed", "rejected")
    assert report.rows_in == sum(getattr(report, f"rows_{way}") for way in ways)
    return report


def vectors(job: Job) -> dict[str, list[float]]:
    rows = ds.dataset(job.folder / job.out / "data").to_table(columns=["id", "vector"])
    return dict(zip(*rows.to_pydict().values(), strict=True))


def made(job: Job, generation: int) -> dict[str, bytes]:
    """Parts and rejects of one generation."""
    names = [*job.store.list("data"), *job.store.list("_embed/rejects")]
    return {name: job.store.read(name) for name in names if f"-g{generation:06d}" in name}


def fill(job: Job) -> Job:
    """A snapshot over four shards of 25 rows, no two equal."""
    for shard in range(SHARDS):
        write(job, shard, numbers(shard))
    assert SHARDS * ROWS == refresh(job).rows_encoded
    return job
