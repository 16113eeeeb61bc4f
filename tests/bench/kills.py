"""Histories of kills, JSON lines added to a file: of the pipeline, or of stock Ray Data.

    python tests/bench/kills.py FOLDER RESULTS --seeds 0:20 [--what ray] [--store s3]

The folder keeps the job between calls; seeds that the results have are not played again, and none
is begun after so many seconds. `python tests/bench/kills.py --sum RESULTS...` makes the table of
docs/benchmarks/reliability_kills_202611.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

from tests.faults.kills import Job, disturb, make_job  # noqa: E402
from tests.faults.stock import disturb_stock  # noqa: E402
from tests.pipeline.store.servers import seaweed  # noqa: E402

# what -> runner and settings of the run
WHAT = {"inline": ("inline", {}), "workers": ("inline", {"workers": 2}), "ray": ("ray", {})}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0:1")
    parser.add_argument("--what", choices=[*WHAT, "stock"], default="inline")
    parser.add_argument("--store", choices=["local", "s3"], default="local")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--sum", action="store_true")
    chosen = parser.parse_args()
    if chosen.sum:
        print(table(line for path in chosen.paths for line in path.read_text().splitlines()))
        return
    folder, results = chosen.paths
    first, _, last = chosen.seeds.partition(":")
    job = make_job(folder)
    began, known = time.monotonic(), played(results, chosen.what, chosen.store)
    seeds = [seed for seed in range(int(first), int(last)) if seed not in known]
    with output(chosen.store) as root:
        for seed in seeds:
            if time.monotonic() - began > chosen.seconds:
                sys.exit(3)
            line = one(job, seed, root, chosen.what, chosen.kills)
            with results.open("a") as file:
                file.write(json.dumps({"what": chosen.what, **line}) + "\n")
            print(seed, {k: line[k] for k in ("codes", "lost", "twice", "wrong", "seconds")})


def played(results: Path, what: str, store: str) -> set[int]:
    """Seeds that the file has already."""
    lines = map(json.loads, results.read_text().splitlines()) if results.exists() else ()
    return {line["seed"] for line in lines if (line["what"], line["store"]) == (what, store)}


def one(job: Job, seed: int, root: str, what: str, kills: int) -> dict[str, Any]:
    """One history, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as own:
        place = f"{root}/{what}-{seed}"
        if what == "stock":
            return disturb_stock(job, seed, place, Path(own), kills)
        runner, settings = WHAT[what]
        made = disturb(job, seed, runner, place, Path(own), kills, **settings)
        if "://" not in place:
            shutil.rmtree(place)
        return made


@contextmanager
def output(store: str) -> Iterator[str]:
    """Where the outputs go; the environment says how."""
    with ExitStack() as stack:
        own = stack.enter_context(tempfile.TemporaryDirectory())
        if store == "local":
            yield own
            return
        place = stack.enter_context(seaweed(Path(own)))
        os.environ.update(place.environment)
        yield place.uri


def table(lines: Iterator[str]) -> str:
    """One row for each kind of run."""
    rows: dict[str, Counter[str]] = {}
    for line in map(json.loads, lines):
        row = rows.setdefault(f"{line['what']}, {line['store']}", Counter())
        row["histories"] += 1
        row.update({key: int(line[key]) for key in line.keys() & NUMBERS})
        row.update(kill["kind"] for kill in line["kills"])
        row["kills"] += len(line["kills"])
        row["runs"] += len(line["codes"])
    names = ["histories", "runs", "kills", *KINDS, *NUMBERS]
    told = [f"| run | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    add: Callable[[str], None] = told.append
    for name, row in rows.items():
        add(f"| {name} | {' | '.join(str(row[key]) for key in names)} |")
    return "\n".join(told)


KINDS = ("driver", "worker", "encoder", "raylet")
NUMBERS = ("lost", "twice", "wrong", "equal", "units", "repeated", "in_flight", "redone")

if __name__ == "__main__":
    main()
