"""Puts the shipped code into a simulated world: its store, its input files, its model, its clock.

Everything between `jobs.run.run` and the store is the shipped code: planning with its footers,
freezing, adopting, reading, cutting, the tables of parts and rejects, committing, collecting. In
place of the model stand pure functions of a row's text and the fingerprint, so that a vector tells
which text and which encoding it was made of. The runner here is a loop over the units.
"""

from __future__ import annotations

import datetime as clock
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import embedmill.jobs.process.interrupt
import embedmill.jobs.run
import embedmill.pipeline.flow
import embedmill.pipeline.parts.commit
import embedmill.pipeline.parts.table
import embedmill.pipeline.parts.write
import embedmill.pipeline.plan.plan
import embedmill.pipeline.plan.shards
import embedmill.pipeline.read.slices
import embedmill.pipeline.reuse.reuse
import embedmill.pipeline.reuse.sorted_index
import embedmill.pipeline.run.log
import embedmill.pipeline.run.summary
from embedmill.pipeline.batches import Sequences
from embedmill.pipeline.identity import canonical
from embedmill.pipeline.model.folder import ModelFolder
from embedmill.pipeline.run import attempts
from embedmill.pipeline.run.receipt import Receipt
from embedmill.pipeline.vectors.unit import Vectors
from embedmill.schemas.columns import vector_type
from embedmill.schemas.footer import Footer
from embedmill.schemas.plan import Plan, Unit
from tests.simulation.storage import SimulatedStore

if TYPE_CHECKING:
    from tests.simulation.world import World

DIM, IDS = 4, 4  # values of a vector, tokens of a text
MODEL = ModelFolder(
    name="simulated",
    revision=None,
    root=Path("/simulated/model"),
    folder=Path("/simulated/model"),
    digest=64 * "5",
    config={"hidden_size": DIM, "num_hidden_layers": 1, "vocab_size": 1 << 16},
    parameters=1,
    max_tokens=64,
    positions=64,
    types=2,
    dim=DIM,
    pooling="mean",
    normalize=False,
)
join = embedmill.pipeline.plan.plan._unchanged
parts: dict[tuple[bytes, bytes], pa.Buffer] = {}
carried: dict[tuple, pa.Table] = {}
worlds: list[World] = []  # the last one is the one that is


class OneByOne:
    """In place of a pool of threads, which would be another scheduler."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Any, *lists: Any) -> Iterator[Any]:
        return map(function, *lists)


class Tokens:
    """In place of the tokenizer: the ids are the beginning of the text's digest."""

    unknown_id = -1
    way = "simulated"

    def sequences(self, prompt: str, a: list[str], b: None, long_text: str, _: int) -> Sequences:
        assert not prompt and b is None and long_text == "truncate"
        lengths = np.full(len(a), IDS, np.int32)
        cu_S1 = np.arange(len(a) + 1, dtype=np.int64) * IDS
        ids = np.concatenate([ids_of(text) for text in a]) if a else np.zeros(0, np.int32)
        return Sequences(ids, cu_S1, lengths, np.zeros(len(a), np.int64))


def ids_of(text: str) -> np.ndarray:
    """The ids of a text, int32."""
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint16)[:IDS].astype(np.int32)


def vector_of(ids: np.ndarray, fingerprint: str) -> np.ndarray:
    """The vector of a text under an encoding, fp32."""
    digest = hashlib.sha256(ids.tobytes() + fingerprint.encode()).digest()
    return np.frombuffer(digest, np.uint16)[:DIM].astype(np.float32)


def unit_vectors(plan: Plan, encoder: Any, prepared: Any) -> Vectors:
    """In place of the encoder and the poolings."""
    s = prepared.sequences
    spans = zip(s.cu_S1[:-1], s.cu_S1[1:], strict=True)
    rows = [vector_of(s.ids_T[a:b], plan.fingerprint) for a, b in spans]
    flat = np.concatenate(rows) if rows else np.zeros(0, np.float32)
    array = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=vector_type(plan.columns[0]))
    return Vectors({plan.columns[0].name: array}, np.ones(len(rows), bool), {})


@contextmanager
def start(plan: Plan, units: list[Unit], stop_name: str, run: Any) -> Iterator[Iterator[Receipt]]:
    """In place of the runner."""
    yield _receipts(plan, units, stop_name)


def _receipts(plan: Plan, units: list[Unit], stop_name: str) -> Iterator[Receipt]:
    """What Ray may do twice, it does twice: see World.begin_unit."""
    for number, unit in enumerate(units):
        if open_store(plan.output).size(stop_name) is not None:
            return
        worlds[-1].begin_unit(number, plan, unit)
        yield encode_unit(plan, unit)


def encode_unit(plan: Plan, unit: Unit) -> Receipt:
    """One unit through the corridor, as the runners do it."""
    given = attempts.prepare(plan, unit, Tokens())
    if isinstance(given, Unit):  # often begun: the runners put it into a process of its own
        given = embedmill.pipeline.flow.prepare(plan, unit, Tokens())
    encoded = embedmill.pipeline.flow.encode(plan, SimpleNamespace(engine={}), given)
    worlds[-1].encoded(plan, unit)
    record = embedmill.pipeline.flow.commit(plan, encoded)
    attempts.end(plan, unit)
    return Receipt.of(record, encoded, 0.0)


def alone(plan: Plan, unit: Unit, contents: tuple[tuple[str, int, int, int], ...]) -> bytes:
    """The part of a unit as a run makes it that nobody disturbs."""
    from tests.simulation.world import World

    world = World(())
    for piece, (uri, content, _, _) in zip(unit.slices, contents, strict=True):
        world.inputs.now[uri] = piece.shard.version, content
    worlds.append(world)
    try:
        return world.bucket.there[encode_unit(plan, unit).record.path].data
    finally:
        worlds.pop()


def part_bytes(table: pa.Table, vectors: list[str], footer: Footer) -> pa.Buffer:
    """The shipped function, asked once for equal arguments: most of the time went there."""
    key = (
        hashlib.sha256(ipc_bytes(table)).digest(),
        canonical([vectors, footer.to_bytes().decode()]),
    )
    if key not in parts:
        parts[key] = embedmill.pipeline.parts.write.part_bytes(table, vectors, footer)
    return parts[key]


def unchanged(base: Any, parts: pa.Table, plan: Plan, layout: str, found: list) -> pa.Table:
    """The shipped function, asked once for equal arguments: it joins in threads of its own."""
    shards = tuple(item.shard for item in found)
    key = base and base.sha256, plan.fingerprint, layout, shards
    if key not in carried:
        carried[key] = join(base, parts, plan, layout, found)
    return carried[key]


class OneThread(pq.ParquetFile):
    """Reads where it is called, and not in threads of its own."""

    def iter_batches(self, *args: Any, **named: Any) -> Iterator[pa.RecordBatch]:
        return super().iter_batches(*args, **named, use_threads=False)

    def read(self, *args: Any, **named: Any) -> pa.Table:
        return super().read(*args, **named, use_threads=False)


def ipc_bytes(data: pa.Table) -> pa.Buffer:
    """As pipeline.plan.plan has it, without compression, which takes longer than all else here."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, data.schema) as writer:
        writer.write_table(data.combine_chunks())
    return sink.getvalue()


def open_store(uri: str) -> SimulatedStore:
    return SimulatedStore(worlds[-1])


class Clock(clock.datetime):
    """In place of the clock, which is only for people here."""

    @classmethod
    def now(cls, tz: Any = None) -> clock.datetime:
        return cls(2026, 11, 1, tzinfo=tz)


@contextmanager
def furnished() -> Iterator[None]:
    """While entered, the shipped code lives in the last of `worlds`."""
    silent = SimpleNamespace(add=lambda receipt: None)
    instead = {
        embedmill.jobs.run: {
            "open_store": open_store,
            "start": start,
            "load_tokenizer": lambda plan: Tokens(),
            "Progress": lambda rows: nullcontext(silent),
        },
        embedmill.jobs.process.interrupt: {  # no process here has signals
            "threading": SimpleNamespace(current_thread=lambda: 0, main_thread=lambda: 1)
        },
        embedmill.pipeline.parts.commit: {
            "ThreadPoolExecutor": OneByOne,
            "ipc_bytes": ipc_bytes,
            "part_bytes": part_bytes,
        },
        embedmill.pipeline.flow: {
            "open_store": open_store,
            "unit_vectors": unit_vectors,
        },
        embedmill.pipeline.parts.table: {"software": lambda: {}},
        embedmill.pipeline.plan.plan: {
            "open_model": lambda name, revision: MODEL,
            "ipc_bytes": ipc_bytes,
            "_unchanged": unchanged,
        },
        embedmill.pipeline.read.slices: {
            "version_now": lambda uri: worlds[-1].inputs.version_now(uri),
            "open_shard": lambda uri: worlds[-1].inputs.open_shard(uri),
        },
        embedmill.pipeline.plan.shards: {
            "ThreadPoolExecutor": OneByOne,
            "pq": SimpleNamespace(ParquetFile=OneThread),
            "_expand": lambda pattern, _: worlds[-1].inputs.expand(pattern),
            "version_now": lambda uri: worlds[-1].inputs.version_now(uri),
            "open_shard": lambda uri: worlds[-1].inputs.open_shard(uri),
        },
        attempts: {"open_store": open_store},
        embedmill.pipeline.reuse.sorted_index: {"pq": SimpleNamespace(ParquetFile=OneThread)},
        embedmill.pipeline.reuse.reuse: {"pq": SimpleNamespace(ParquetFile=OneThread)},
        embedmill.pipeline.run.summary: {"_version": lambda: "simulated"},
        embedmill.pipeline.run.log: {
            "datetime": SimpleNamespace(datetime=Clock, UTC=clock.UTC),
            "secrets": SimpleNamespace(token_hex=lambda n: worlds[-1].run_number()),
        },
    }
    patches = [patch.multiple(module, **names) for module, names in instead.items()]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
