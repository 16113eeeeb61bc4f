"""The engine on one GPU: ceilings, itself, its peers, whole runs, and how near to fp32 it is.

    PYTHONPATH=. python tests/bench/gpu.py --make gpu-bench       # where the data is
    PYTHONPATH=. python tests/bench/gpu.py gpu-bench --json FILE  # where the GPU is

In less than ten minutes, without Ray, polars, pydantic or obstore, but for the last stage: a whole
`run` needs pydantic and obstore. A stage that fails says so, and the others go on. Prints a table
in Markdown last.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.bench import gpu_models as models
from tests.bench import gpu_stages as stages

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EMBEDMILL_DATA", ROOT.parent / "shared" / "data"))
# name -> rows of the engine's unit, of sentence-transformers, of a whole run; most tokens of a text
ROWS = {
    "minilm": (65536, 8000, 2_000_000, 256),
    "base": (24000, 2500, 1_800_000, 512),
    "large": (10000, 1000, 600_000, 512),
}
SIZES = [16384, 32768]
PEERS = [("float16", 32), ("float16", 256), ("bfloat16", 256)]


def peers(name: str, folder: Path, texts: list[str], most: int) -> list[stages.LINE]:
    """sentence-transformers' encode(), texts in; its attention is SDPA, so it pads."""
    from sentence_transformers import SentenceTransformer

    packs = models.token_packs(folder, texts, most, 10**9)
    lengths_S, found = packs[0].lengths_S, []
    for dtype, batch in PEERS:
        model = SentenceTransformer(
            str(folder), device="cuda", model_kwargs={"dtype": getattr(torch, dtype)}
        )
        model.max_seq_length = most
        seconds = []
        for _ in range(3):  # the first warms up
            began = time.perf_counter()
            model.encode(texts, batch_size=batch)
            seconds.append(time.perf_counter() - began)
        what = f"{name}, sentence-transformers {dtype}, batch {batch}"
        found.append(stages.line(what, lengths_S, stages.flops(name, lengths_S), seconds[1:]))
    return found


def whole_run(home: Path, scratch: Path, name: str, folder: Path, rows: int) -> stages.LINE:
    """`embedmill run`, Parquet to Parquet, in its own process; the rate once it has started."""
    shards = models.write_shards(home, scratch / f"{name}-in", rows)
    spec = {
        "input": {"path": str(shards), "text": "text", "id": "id"},
        "model": {"name": str(folder), "max_tokens": ROWS[name][3]},
        "output": {"path": str(scratch / f"{name}-out")},
        "run": {"runner": "inline", "device": "cuda"},
    }
    path = scratch / f"{name}.yaml"
    path.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "embedmill", "run", str(path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    report = json.loads(done.stdout)
    running = report["seconds"] - report["startup_seconds"]
    return {
        "what": f"{name}, whole run of {rows:,} rows", "mtok_s": report["tokens"] / running / 1e6,
        "rows_s": rows / running, "encoder_busy": report["encoder_busy"], "report": report,
    }  # fmt: skip


def describe() -> dict[str, Any]:
    """Device, commit and versions."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    packages = ("torch", "triton", "transformers", "sentence-transformers", "tokenizers", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    python = sys.version.split()[0]
    return {
        "gpu": torch.cuda.get_device_name(), "cores": os.cpu_count(), "commit": commit,
        "python": python, **versions,
    }  # fmt: skip


def table(lines: list[stages.LINE]) -> None:
    """What was measured, as Markdown."""
    print("\n| | M tokens/s | lowest to highest | rows/s | TFLOP/s | encoder busy |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one in lines:
        spread = f"{one['low']:.2f} to {one['high']:.2f}" if "low" in one else ""
        work = f"{one['tflop_s']:.0f}" if "tflop_s" in one else ""
        busy = f"{one['encoder_busy']:.0%}" if "encoder_busy" in one else ""
        rate = f"{one['mtok_s']:.3f} | {spread} | {one['rows_s']:,.0f}"
        print(f"| {one['what']} | {rate} | {work} | {busy} |")


class Bench:
    """Runs stages, keeps what they found, and writes it after each."""

    def __init__(self, file: Path | None) -> None:
        self.file, self.began = file, time.monotonic()
        self.found: dict[str, Any] = {"about": describe(), "ceilings": stages.ceilings()}
        self.lines: list[stages.LINE] = []

    def stage(self, what: str, work: Callable, *given: Any) -> None:
        """One stage: a list of lines, a line, or facts."""
        try:
            done = self.found[what] = work(*given)
            self.lines += done if isinstance(done, list) else [done] if "what" in done else []
        except Exception:  # whatever it is: the other stages are worth having
            traceback.print_exc()
        print(f"{time.monotonic() - self.began:6.1f} s: {what}", file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
        if self.file:
            self.file.write_text(json.dumps(self.found, indent=1))


def main() -> None:
    """Makes the folder, or runs the stages over it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true", help="write the folder, here")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--models", nargs="*", default=list(models.SHAPES))
    parser.add_argument("--stages", nargs="*", default=["near", "engine", "peers", "run"])
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    args = parser.parse_args()
    home = args.folder
    if args.make:
        models.make_folder(home, DATA)
        return
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    bench, texts = Bench(args.json), models.texts_of(home)
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        if "near" in args.stages:
            bench.stage("fidelity", stages.fidelity, home / "minilm", texts[:1000])
            bench.stage("bits", stages.same_bits, home / "minilm", texts[:1000])
        for name in args.models:
            unit, some, rows, most = ROWS[name]
            folder = models.model_folder(home, scratch, name)
            if "engine" in args.stages:
                own = texts[:: max(1, 3 * len(texts) // unit)]
                given = name, folder, unit, args.sizes, own, most
                bench.stage(f"{name} engine", stages.engine, *given)
            if "peers" in args.stages:
                bench.stage(f"{name} peers", peers, name, folder, texts[:some], most)
            if "run" in args.stages:
                bench.stage(f"{name} run", whole_run, home, scratch, name, folder, rows)
    for what in ("about", "ceilings", "fidelity", "bits"):
        print(f"- {what}: {bench.found.get(what)}")
    table(bench.lines)


if __name__ == "__main__":
    main()
