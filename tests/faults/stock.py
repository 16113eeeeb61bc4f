"""The recipe that everybody writes, under the same kills: Ray Data from Parquet to Parquet.

As a program: python tests/faults/stock.py TEXTS MODEL OUTPUT.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
CLOSE = 1e-5


def recipe(texts: str, model: str, output: str) -> None:
    """read_parquet, an actor with sentence-transformers, write_parquet."""
    import ray

    class Embed:
        def __init__(self) -> None:
            from sentence_transformers import SentenceTransformer

            self.model = SentenceTransformer(model, device="cpu")

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return batch | {"vector": self.model.encode(list(batch["text"]))}

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    rows = ray.data.read_parquet(texts, override_num_blocks=40)
    actor = ray.data.ActorPoolStrategy(size=1)
    rows.map_batches(Embed, batch_size=8, compute=actor, num_cpus=1).write_parquet(output)


def disturb_stock(job: Any, seed: int, output: str, folder: Path, kills: int) -> dict[str, Any]:
    """One history of it; `visible`: rows that readers saw when the first driver had died."""
    from tests.faults.kills import DRIVER, History, Started
    from tests.patience import LONG

    command = [sys.executable, __file__, str(job.texts), str(job.model)]
    calm = job.folder / "calm-stock"
    if not calm.exists():
        assert Started(job.folder / "calm-stock-run", [*command, str(calm)], {}).wait(LONG) == 0
    seen: list[int] = []

    def start(number: int, run: Path) -> Started:
        if number == 1:
            seen.append(sum(map(len, _rows(Path(output))[0].values())))
        return Started(run, [*command, output], {"RAY_BACKEND_LOG_LEVEL": "fatal"})

    def visible() -> set[str]:
        return {path.name for path in Path(output).glob("*.parquet")}

    began = time.monotonic()
    whole = len(list(calm.glob("*.parquet")))
    history = History(seed, start, visible, whole, folder, 25.0).play(kills)
    (right, _), (rows, broken) = _rows(calm), _rows(Path(output))
    wrong = sum(not _close(right[key], rows[key]) for key in rows.keys() & right)
    return {
        "seed": seed, "runner": "stock", "store": "local", "kills": history.kills,
        "codes": history.codes, "lost": len(right.keys() - rows.keys()),
        "twice": sum(len(values) - 1 for values in rows.values()), "wrong": wrong,
        "broken_files": broken, "files": len(visible()), "rows": len(right),
        "visible": seen[0] if seen and history.kills[0]["kind"] == DRIVER else None,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _rows(output: Path) -> tuple[dict[str, list[np.ndarray]], int]:
    """Every id with all its vectors, and files that cannot be read."""
    rows: dict[str, list[np.ndarray]] = {}
    broken = 0
    for path in output.glob("*.parquet"):
        try:
            table = pq.read_table(path, columns=["id", "vector"])
        except (pa.ArrowException, OSError):
            broken += 1
            continue
        for row in table.to_pylist():
            rows.setdefault(row["id"], []).append(np.asarray(row["vector"], np.float32))
    return rows, broken


def _close(right: list[np.ndarray], found: list[np.ndarray]) -> bool:
    return all(np.abs(vector - right[0]).max() < CLOSE for vector in found)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    recipe(*sys.argv[1:])
