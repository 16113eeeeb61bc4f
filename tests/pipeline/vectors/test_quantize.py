"""int8 and bits: the reference's formulas, and ranges that are the same for a whole corpus."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from embedmill.jobs.dataset import dataset
from embedmill.jobs.run import run
from embedmill.jobs.search.exact import search
from embedmill.jobs.verify.output import verify
from embedmill.pipeline.index.values import signs_of, vectors_of
from embedmill.pipeline.parts.footer import read_footer
from embedmill.pipeline.run import freeze_ranges as room
from embedmill.pipeline.snapshot.read import latest, read_plan
from embedmill.pipeline.store.output import Store, open_store
from embedmill.pipeline.vectors.quantize import to_bits, to_int8
from embedmill.pipeline.vectors.ranges import dequantize
from embedmill.schemas.errors import InputError, StorageError
from tests.pipeline.conftest import Job

WORDS = "lemon river stone honey bread cloud yellow sour fruit deep water north wind".split()
TEXTS = [" ".join(WORDS[(n * 5 + i * n) % 13] for i in range(1 + n % 7)) for n in range(40)]
COLUMNS = [
    {"name": "wide"},
    {"name": "codes", "dtype": "int8"},
    {"name": "bits", "dtype": "binary"},
]


def some(rows: int = 500, dim: int = 24) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(rows, dim)).astype(np.float32)


def test_int8_is_the_references_formula_with_given_ranges() -> None:
    vectors = some()
    range_2D = np.stack([np.full(24, -1.5), np.full(24, 2.0)]).astype(np.float32)
    range_2D[:, 3] = 0.25  # a constant dimension
    got, outside_S = to_int8(torch.from_numpy(vectors), range_2D)
    low, high = range_2D
    step = (high - low) / 255
    step[step == 0] = 1
    want = np.clip(np.floor((vectors - low) / step), 0, 255) - 128
    assert np.array_equal(got.numpy(), want)
    assert np.array_equal(outside_S, ((vectors < low) | (vectors > high)).sum(axis=1))
    assert outside_S.sum() > 0
    back = dequantize(got.numpy(), range_2D)
    assert (back[:, 3] == 0.25).all(), "a step of no width has no middle"
    inside = (vectors >= low) & (vectors < high) & (np.arange(24) != 3)
    assert (np.abs(back - vectors)[inside] <= np.broadcast_to(step, vectors.shape)[inside]).all()


def test_int8_and_bits_equal_sentence_transformers() -> None:
    theirs = pytest.importorskip("sentence_transformers.util.quantization")
    vectors = some()
    range_2D = np.stack([np.quantile(vectors, q, axis=0) for q in (0.02, 0.98)]).astype(np.float32)
    want = theirs.quantize_embeddings(vectors, precision="int8", ranges=range_2D)
    assert np.array_equal(to_int8(torch.from_numpy(vectors), range_2D)[0].numpy(), want)
    want = theirs.quantize_embeddings(vectors, precision="ubinary")
    assert np.array_equal(to_bits(torch.from_numpy(vectors)).numpy(), want)


def test_bits_are_packed_as_numpy_packs_them() -> None:
    vectors = some()
    vectors[0, :3] = 0.0  # not above 0
    packed = to_bits(torch.from_numpy(vectors)).numpy()
    assert np.array_equal(packed, np.packbits(vectors > 0, axis=1))
    column = pa.array([row.tobytes() for row in packed], pa.binary(3))
    assert np.array_equal(signs_of(column.slice(5)), np.where(vectors[5:] > 0, 1, -1))


def spec_of(job: Job, source: str = "in", out: str = "out"):
    return job.spec(
        input={"path": str(job.folder / source), "id": "n"},
        output={"path": str(job.folder / out), "columns": COLUMNS},
    )


def write(job: Job, source: str, rows: range, texts: list[str] = TEXTS) -> None:
    path = job.folder / source / f"{rows.start}.parquet"
    job.write(path, text=[texts[n] for n in rows], n=list(rows))


def stored(job: Job, out: str = "out") -> pa.Table:
    return dataset(str(job.folder / out)).to_table().sort_by("n")


def range_of(store: Store) -> np.ndarray:
    (name,) = store.list("_embed/ranges")
    table = pa.ipc.open_file(pa.py_buffer(store.read(name))).read_all()
    return np.stack([table.column(key).to_numpy() for key in ("min", "max")])


def test_the_range_is_the_samples_and_the_codes_are_exact(job: Job) -> None:
    write(job, "in", range(40))
    report = run(spec_of(job))
    store, table = job.store, stored(job)
    wide = vectors_of(table.column("wide").combine_chunks())
    codes = vectors_of(table.column("codes").combine_chunks())
    range_2D = range_of(store)
    assert np.array_equal(range_2D, np.stack([wide.min(axis=0), wide.max(axis=0)]))
    assert np.array_equal(codes, to_int8(torch.from_numpy(wide.copy()), range_2D)[0].numpy())
    assert report.clipped == {"codes": 0.0}
    manifest = latest(store).manifest
    ranges = read_plan(store, manifest.plan)[0].ranges
    (name,) = ranges
    assert ranges[name] == hashlib.sha256(store.read(name)).hexdigest()
    assert name.startswith(f"_embed/ranges/{manifest.fingerprint[:12]}-")
    for path in store.list("data"):
        footer = read_footer(pq.read_metadata(store.root / path))
        assert footer.ranges == ranges
    assert verify(str(store.root), sample=40)["problems"] == []


def test_two_runs_over_halves_with_frozen_ranges_equal_one_run(job: Job) -> None:
    write(job, "in", range(20))
    write(job, "in", range(20, 40))
    run(spec_of(job))
    write(job, "half", range(20))
    store = open_store(str(job.folder / "halves"))
    (name,) = job.store.list("_embed/ranges")
    store.create(name, job.store.read(name))  # what another machine may have frozen before
    run(spec_of(job, "half", "halves"))
    write(job, "half", range(20, 40))
    run(spec_of(job, "half", "halves"))
    assert stored(job).column("codes").equals(stored(job, "halves").column("codes"))
    assert store.read(name) == job.store.read(name)


def test_two_outputs_over_disjoint_halves_with_frozen_ranges_equal_one_run(job: Job) -> None:
    write(job, "in", range(40))
    run(spec_of(job))
    (name,) = job.store.list("_embed/ranges")
    tables = []
    for half in (range(20), range(20, 40)):
        source, out = f"in{half.start}", f"out{half.start}"
        write(job, source, half)
        open_store(str(job.folder / out)).create(name, job.store.read(name))
        run(spec_of(job, source, out))
        tables.append(stored(job, out))
    both, whole = pa.concat_tables(tables), stored(job)
    for column in ("n", "codes", "bits", "wide"):
        assert whole.column(column).combine_chunks().equals(both.column(column).combine_chunks())


def test_a_later_run_keeps_the_range_and_counts_what_it_clips(job: Job) -> None:
    write(job, "in", range(4))
    run(spec_of(job))
    before = range_of(job.store)
    write(job, "in", range(4, 40))
    report = run(spec_of(job))
    wide = vectors_of(stored(job).slice(4).column("wide").combine_chunks())
    first, rest = np.unique([TEXTS[n] for n in range(4, 40)], return_index=True)
    outside = (wide < before[0]) | (wide > before[1])
    assert np.array_equal(before, range_of(job.store))
    assert report.clipped["codes"] == pytest.approx(outside.mean(), abs=0.1)
    assert report.clipped["codes"] > 0.1
    assert len(first) == len(rest)


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_a_lost_or_changed_range_stops_the_next_run(job: Job, damage: str) -> None:
    write(job, "in", range(20))
    run(spec_of(job))
    (name,) = job.store.list("_embed/ranges")
    data = job.store.read(name)
    job.store.delete(name)
    if damage == "other":
        job.store.create(name, data[:-8] + bytes(8))
    write(job, "in", range(20, 40))
    with pytest.raises(StorageError, match=r"RANGES_CHANGED.*restore it"):
        run(spec_of(job))
    assert any("ranges" in line for line in verify(str(job.store.root))["problems"])


def test_an_interrupted_run_resumes_with_the_same_range(job: Job, monkeypatch) -> None:
    write(job, "in", range(40))
    monkeypatch.setattr("embedmill.jobs.run.commit_snapshot", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(spec_of(job))
    monkeypatch.undo()
    monkeypatch.setattr(room, "_sampled", lambda *_: pytest.fail("the range is there already"))
    assert run(spec_of(job)).units_resumed > 0


def test_who_loses_the_race_reads_what_stands(job: Job, monkeypatch) -> None:
    write(job, "in", range(40))
    run(spec_of(job))
    (name,) = job.store.list("_embed/ranges")
    theirs = job.store.read(name)
    sampled = room._sampled

    def slower(planned, columns):
        found = sampled(planned, columns)
        open_store(str(job.folder / "second")).create(name, theirs)
        return {key: value * 2 for key, value in found.items()}

    monkeypatch.setattr(room, "_sampled", slower)
    run(spec_of(job, out="second"))
    assert stored(job).column("codes").equals(stored(job, "second").column("codes"))


def test_a_corpus_whose_sample_has_no_vector_is_said(job: Job, monkeypatch) -> None:
    monkeypatch.setattr(room, "SAMPLE_ROWS", 4)
    monkeypatch.setattr(room, "SAMPLE_PLACES", 1)
    write(job, "in", range(40), [""] * 39 + ["lemon"])
    with pytest.raises(InputError, match=r"RANGES_UNKNOWN.*none of 4 sampled rows"):
        run(spec_of(job))
    shutil.rmtree(job.folder / "in")
    write(job, "in", range(2), ["", ""])
    assert run(spec_of(job)).rows_rejected == 2, "nothing to encode needs no range"


def test_the_sample_is_spread_over_a_large_corpus(job: Job, monkeypatch) -> None:
    monkeypatch.setattr(room, "SAMPLE_ROWS", 8)
    monkeypatch.setattr(room, "SAMPLE_PLACES", 4)
    write(job, "in", range(15))
    write(job, "in", range(15, 40))
    shards = [found.shard for found in job.plan(input={"id": "n"}).listing.found]
    places = [(Path(s.shard.uri).stem, s.start, s.rows) for s in room._spread(shards)]
    assert places == [("0", 0, 2), ("0", 10, 2), ("15", 5, 2), ("15", 15, 2)]


def test_search_over_int8_and_bits(job: Job) -> None:
    write(job, "in", range(40))
    run(spec_of(job))
    out, query = str(job.folder / "out"), TEXTS[17]
    table = stored(job)
    for name in ("wide", "codes", "bits"):
        hits = search(out, query, k=40, column=name)["hits"]
        assert query == TEXTS[hits[0]["id"]], name
        assert hits[0]["score"] > 0.999, name
        json.dumps(hits)
    packed = np.stack([np.frombuffer(b, np.uint8) for b in table.column("bits").to_pylist()])
    distance = np.bitwise_count(packed ^ packed[17]).sum(axis=1)
    want = {n: 1 - 2 * int(d) / 32 for n, d in enumerate(distance)}
    assert {hit["id"]: pytest.approx(hit["score"]) for hit in hits} == want


def test_the_snippets_of_the_docs_find_the_row(job: Job) -> None:
    job.shard("0.parquet", text=TEXTS, id=list(range(40)))
    run(job.spec(input={"id": "id"}, output={"columns": COLUMNS}))
    page = (Path(__file__).parents[3] / "docs" / "outputs.md").read_text(encoding="utf-8")
    wide = dataset(str(job.folder / "out")).to_table().combine_chunks()
    vectors = vectors_of(wide.column("wide").chunk(0))
    names = {"out": str(job.folder / "out"), "query": vectors[17]}
    snippets = [part.split("```")[0] for part in page.split("```python")[1:]]
    assert len(snippets) == 2
    for snippet in snippets:
        exec(snippet, names)
        found = TEXTS[names["best"][0].as_py()]
        assert TEXTS[wide.column("id")[17].as_py()] == found
