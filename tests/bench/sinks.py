"""How fast sinks are loaded, beside the fastest way that each of them has itself; and their recall.

    PYTHONPATH=. python tests/bench/sinks.py OUT [ROUNDS] > docs/benchmarks/sinks_202611.md

OUT is an output with one float32 column and no windows. PostgreSQL is the one that PGHOST and its
like name; without it that sink is left out. Ours: keys of all rows, what differs, the load, its
publication; with the keys made anew, and with those that an earlier load left. The other: the same
columns of the same parts, written by whoever knows that library best, with no keys and no way to
resume. In turns, a new place each time; neither makes an index over the vectors.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.jobs.dataset import dataset
from embedmill.jobs.index import fill, index
from embedmill.pipeline.index.faiss.rows import sync
from embedmill.pipeline.index.open import open_sink, shape_of
from embedmill.pipeline.index.records import keys_of, records
from embedmill.pipeline.index.sink import Loaded
from embedmill.pipeline.snapshot.read import read_plan, required, table
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.sinks import Index
from embedmill.schemas.spec import Spec

LIBRARIES = ("pylance", "asyncpg", "qdrant-edge-py", "faiss-cpu", "pyarrow", "numpy")


class Output:
    """The snapshot that is loaded."""

    def __init__(self, path: str) -> None:
        self.path, self.store = path, open_store(path)
        self.snapshot = required(self.store)
        self.plan, _ = read_plan(self.store, self.snapshot.manifest.plan)
        self.paths = table(self.store, self.snapshot.manifest).column("path").to_pylist()
        self.vector = self.plan.columns[0].name
        left = {"n_tokens", "n_chars_cut", "input_hash"}
        self.names = [name for name in dataset(path).schema.names if name not in left]
        self.rows = self.snapshot.manifest.vectors
        self.sizes = table(self.store, self.snapshot.manifest).column("vectors").to_pylist()

    def batches(self) -> Any:
        """The columns that a sink holds, part by part."""
        return dataset(self.path).to_batches(columns=self.names, batch_size=32768)


def ours(output: Output, entry: dict[str, Any], known: bool = False) -> float:
    """Seconds of a load from nothing as `index` makes it, without its check and its index.

    `known`: the keys of the parts are there, as when another sink was loaded before.
    """
    if not known:
        shutil.rmtree(output.store.root / "_embed/keys", ignore_errors=True)
    made = Index.model_validate({**entry, "type": "flat"})
    shape = shape_of(made, output.plan, output.rows)
    sink = open_sink(made, shape, output.plan)
    began = time.perf_counter()
    sink.begin(True, "bench")
    todo = fill(sink, output.store, output.paths, output.sizes)
    if entry["sink"] != "pgvector":  # whose `build` is an index over the keys, and VACUUM
        sink.build()
    facts = (shape.digest, shape.fingerprint, output.vector, shape.metric, "flat", 1, "bench")
    sink.publish(Loaded(*facts, todo.records))
    seconds = time.perf_counter() - began
    sink.close()
    return seconds


def lance_itself(output: Output, place: str) -> None:
    import lance

    schema = pa.schema([dataset(output.path).schema.field(name) for name in output.names])
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, output.batches()), place)


def faiss_itself(output: Output, place: str) -> None:
    import faiss

    found = faiss.IndexFlatIP(output.plan.columns[0].dim)
    Path(place).mkdir()
    others = [name for name in output.names if name != output.vector]
    writer = None
    for batch in output.batches():
        column = batch.column(output.vector)
        vectors = np.array(column.flatten()).reshape(len(batch), -1)
        faiss.normalize_L2(vectors)
        found.add(vectors)
        kept = batch.select(others)
        writer = writer or pq.ParquetWriter(f"{place}/rows.parquet", kept.schema)
        writer.write_batch(kept)
    writer.close()
    faiss.write_index(found, f"{place}/index.faiss")
    for name in ("rows.parquet", "index.faiss"):  # ours is on the disk when it is published
        sync(Path(place) / name)


def qdrant_itself(output: Output, place: str) -> None:
    import qdrant_edge as qdrant

    Path(place).mkdir()
    vectors = qdrant.EdgeVectorParams(
        size=output.plan.columns[0].dim, distance=qdrant.Distance.Cosine
    )
    shard = qdrant.EdgeShard.create(place, qdrant.EdgeConfig(vectors=vectors, wal_enabled=False))
    others = [name for name in output.names if name != output.vector]
    for batch in output.batches():
        flat = np.asarray(batch.column(output.vector).flatten()).reshape(len(batch), -1)
        made = zip(flat.tolist(), batch.select(others).to_pylist(), strict=True)
        points = [qdrant.Point(uuid.uuid4(), vector, load) for vector, load in made]
        shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()


def pgvector_itself(output: Output, place: str) -> None:
    """COPY BINARY, a row at a time through asyncpg with a codec for vectors: its documented way."""
    import asyncpg

    def encode(value: Any) -> bytes:
        return np.array([len(value), 0], ">i2").tobytes() + value.astype(">f4").tobytes()

    async def load() -> None:
        db = await asyncpg.connect()
        await db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        dim = output.plan.columns[0].dim
        told = ", ".join(f'"{n}" ' + (f"vector({dim})" if n == output.vector else "text")
                         for n in output.names)  # fmt: skip
        await db.execute(f'CREATE TABLE "{place}" ({told})')
        await db.set_type_codec(
            "vector", schema="public", encoder=encode, decoder=bytes, format="binary"
        )
        for batch in output.batches():
            flat = np.asarray(batch.column(output.vector).flatten()).reshape(len(batch), -1)
            columns = [
                list(flat) if name == output.vector else batch.column(name).to_pylist()
                for name in output.names
            ]
            rows = zip(*columns, strict=True)
            await db.copy_records_to_table(place, records=rows, columns=output.names)
        await db.execute(f'DROP TABLE "{place}"')
        await db.close()

    asyncio.run(load())


def pgvector_floor(output: Output) -> float:
    """Seconds for the server alone: the very bytes of a load, encoded before the clock starts."""
    import asyncpg

    from embedmill.pipeline.index.pgvector.binary_copy import (
        HEADER,
        TRAILER,
        columns_of,
        copy_rows,
    )

    shape = shape_of(Index(sink="pgvector", table="x"), output.plan, output.rows)
    columns = columns_of(shape)
    all_rows = [np.ones(len(keys_of(output.store, p, shape)), bool) for p in output.paths]
    told = [
        bytes(copy_rows(batch, columns))
        for batch in records(output.store, output.paths, shape, all_rows)
    ]

    async def load() -> float:
        db = await asyncpg.connect()
        kinds = ", ".join(f'"{c.name}" {c.type}' for c in columns)
        await db.execute(f"CREATE TABLE floor ({kinds})")

        async def stream() -> Any:
            yield HEADER
            for piece in told:
                yield piece
            yield TRAILER

        began = time.perf_counter()
        await db.copy_to_table("floor", source=stream(), format="binary")
        seconds = time.perf_counter() - began
        await db.execute("DROP TABLE floor")
        await db.close()
        return seconds

    return asyncio.run(load())


PEERS: dict[str, Callable[[Output, str], None]] = {
    "lance": lance_itself, "faiss": faiss_itself, "qdrant": qdrant_itself,
    "pgvector": pgvector_itself,
}  # fmt: skip


def entry_of(sink: str, folder: Path) -> dict[str, Any]:
    """A new place."""
    if sink == "pgvector":
        return {"sink": sink, "table": f"bench {uuid.uuid4().hex[:8]}"}
    return {"sink": sink, "path": str(folder / uuid.uuid4().hex)}


def measure(output: Output, rounds: int, folder: Path) -> None:
    """The table of load rates."""
    print("| sink | its own, rows/s | ours over its own: each round | median | keys known |")
    print("| --- | --- | --- | --- | --- |")
    for sink in sinks():
        all_three: list[tuple[float, float, float]] = []
        for n in range(rounds + 1):
            times = []
            for known in (False, True):
                entry = entry_of(sink, folder)
                times.append(ours(output, entry, known))
                shutil.rmtree(entry.get("path", ""), ignore_errors=True)
            place = entry.get("path", entry.get("table")) + " itself"
            began = time.perf_counter()
            PEERS[sink](output, place)
            times.append(time.perf_counter() - began)
            shutil.rmtree(place, ignore_errors=True)
            if n:  # the first round warms up
                all_three.append(tuple(times))
        cold, warm = ([three[n] / three[2] for three in all_three] for n in (0, 1))
        rate = output.rows / statistics.median(three[2] for three in all_three)
        each, middle = ", ".join(f"{r:.2f}" for r in cold), statistics.median(cold)
        known_ = statistics.median(warm)
        print(f"| {sink} | {rate:,.0f} | {each} | {middle:.2f} | {known_:.2f} |", flush=True)
    if "pgvector" in sinks():
        ratios = [
            ours(output, entry_of("pgvector", folder)) / pgvector_floor(output)
            for _ in range(rounds)
        ]
        middle, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
        print("\nPostgreSQL alone, given the finished bytes of the same load: ours takes")
        print(f"{middle:.2f} times as long ({spread}).")


def recall(output: Output, folder: Path) -> None:
    """What `index` itself reports, for each type; the second load of each changes nothing."""
    print("\n| sink | type | recall@10 | seconds | again |\n| --- | --- | --- | --- | --- |")
    for sink in sinks():
        for kind in ("flat", "hnsw", "ivf"):
            if (sink, kind) == ("qdrant", "ivf"):
                continue
            entry = {**entry_of(sink, folder), "type": kind, "min_recall": 0}
            job = {"input": {"path": "x", "text": "x"}, "model": {"name": "x"}}
            spec = Spec.model_validate({**job, "output": {"path": output.path}, "index": [entry]})
            first, second = (index(spec)["sinks"][0] for _ in range(2))
            again = "nothing to do" if second["unchanged"] else "CHANGED"
            told = f"| {sink} | {kind} | {first['recall']:.4f} | {first['seconds']:.1f} | {again} |"
            print(told, flush=True)
            shutil.rmtree(entry.get("path", ""), ignore_errors=True)


def sinks() -> list[str]:
    """Those that can be measured here."""
    return [sink for sink in PEERS if sink != "pgvector" or "PGHOST" in os.environ]


def main(path: str, rounds: int) -> None:
    """The page."""
    output = Output(path)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print("# Loading sinks\n\nMade by `tests/bench/sinks.py`, which says what each side does.\n")
    dim, others = output.plan.columns[0].dim, len(output.names) - 1
    print(f"{output.rows:,} vectors of {dim} float32 values with {others} other columns, in")
    print(
        f"{len(output.paths)} parts; {rounds} rounds; {platform.machine()}, {os.cpu_count()} cores;"
    )
    print(f"commit {commit.stdout.strip()}; {versions}.\n")
    with tempfile.TemporaryDirectory() as folder:
        measure(output, rounds, Path(folder))
        recall(output, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
