"""Verify finds each kind of damage, names the object, and never raises because of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embedmill.jobs.verify import parts as verify_parts
from embedmill.jobs.verify.output import verify, verify_text
from embedmill.pipeline.snapshot.gc import collect
from embedmill.pipeline.store.ipc import ipc_bytes
from embedmill.schemas.errors import ConflictError, SpecError
from embedmill.schemas.manifest import PART_TABLE, Manifest, manifest_name
from tests.jobs.conftest import Output, flip_a_bit_of, make_spec, run_by_hand
from tests.jobs.damage import change_part, found, newest, parts, put, recommit, set_value


def test_a_whole_output_is_ok(made: Output) -> None:
    result = verify(made.path)
    assert result["problems"] == []
    assert (result["ok"], result["sample"]) == (True, None)
    assert (result["rows"], result["parts"], result["rejects"]) == (158, 4, 2)
    assert json.loads(json.dumps(result)) == result
    assert verify_text(result) == "ok: 158 rows in 4 parts, 2 rejects"


def test_no_output_and_bad_arguments(made: Output, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="NO_SNAPSHOT"):
        verify(str(tmp_path))
    with pytest.raises(SpecError, match="sample"):
        verify(made.path, sample=-1)


def test_a_flipped_bit_in_a_part(copy: Output) -> None:
    path = parts(copy.store)[2]["path"]
    flip_a_bit_of(copy.store, path, "vector")
    problems = found(copy, path, "sha256")
    assert len(problems) == 2
    assert found(copy, path, "cannot be read")


def test_page_checksums_are_verified_by_themselves(copy: Output) -> None:
    rows = parts(copy.store)
    flip_a_bit_of(copy.store, rows[0]["path"], "vector")
    rows[0]["sha256"] = copy.store.sha256(rows[0]["path"])
    recommit(copy.store, rows)
    assert len(found(copy, rows[0]["path"], "cannot be read", "CRC")) == 1


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 100, None])
def test_a_part_that_is_no_parquet(copy: Output, data: bytes | None) -> None:
    path = parts(copy.store)[0]["path"]
    put(copy.store, path, data if data is not None else copy.store.read(path)[:-100])
    found(copy, path, "bytes, ")
    found(copy, path, "cannot be read")


def test_a_lost_part(copy: Output) -> None:
    path = parts(copy.store)[1]["path"]
    (copy.store.root / path).unlink()
    assert len(found(copy, path, "is gone")) == 1


def test_a_swapped_part(copy: Output) -> None:
    rows = parts(copy.store)
    put(copy.store, rows[0]["path"], copy.store.read(rows[3]["path"]))
    rows[0] |= {key: rows[3][key] for key in ("sha256", "bytes")}
    recommit(copy.store, rows)
    found(copy, rows[0]["path"], "footer", "unit_key")


def test_lost_and_damaged_rejects(copy: Output) -> None:
    row = next(row for row in parts(copy.store) if row["rejects_path"])
    name = row["rejects_path"]
    whole = pa.ipc.open_file(pa.py_buffer(copy.store.read(name))).read_all()
    put(copy.store, name, ipc_bytes(whole.slice(1)))
    assert len(found(copy, name, "codes")) == 2
    found(copy, name, "is not what its name says")
    put(copy.store, name, b"nothing")
    assert len(found(copy, name, "cannot be read")) == 1
    (copy.store.root / name).unlink()
    assert len(found(copy, name, "is gone")) == 1


def test_rejects_of_other_rows(copy: Output) -> None:
    rows = parts(copy.store)
    n = next(n for n, row in enumerate(rows) if row["rejects_path"])
    whole = pa.ipc.open_file(pa.py_buffer(copy.store.read(rows[n]["rejects_path"]))).read_all()
    for places in ([5, 5], [5, 60]):
        wrong = whole.set_column(2, whole.schema.field(2), pa.array(places, pa.int64()))
        put(copy.store, rows[n]["rejects_path"], ipc_bytes(wrong))
        found(copy, rows[n]["rejects_path"], "not its unit's, or one twice")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rows_in", 7), ("rows_out", 7), ("rows_cut", 7), ("tokens", 7), ("parts", 3),
        ("rejects", {"NULL_TEXT": 2}), ("fingerprint", "0" * 64), ("generation", 2),
        ("previous", "0" * 64), ("plan", "000001-0.json"), ("layout", "x"), ("model", {}),
        ("identity", {}), ("columns", []), ("table", "gone.arrow"), ("table_sha256", "0"),
    ],
)  # fmt: skip
def test_an_edited_manifest(copy: Output, key: str, value: Any) -> None:
    manifest = replace(newest(copy.store).manifest, **{key: value})
    put(copy.store, manifest_name(1), manifest.to_bytes())
    found(copy, "")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data + b"\n",
        lambda data: data[:-9],
        lambda data: b"",
        lambda data: b"[1, 2]",
        lambda data: b"\xff",
        lambda data: data.replace(b'"format": 1', b'"format": 2'),
        lambda data: data.replace(b'"rejects": {', b'"rejects": {"X": null,'),
        lambda data: data.replace(b'"columns": [', b'"columns": [7,'),
        lambda data: data.replace(b'"tokens": ', b'"tokens": "a", "token": '),
    ],
)
def test_a_damaged_manifest(copy: Output, damage: Callable[[bytes], bytes]) -> None:
    data = copy.store.read(manifest_name(1))
    assert damage(data) != data
    put(copy.store, manifest_name(1), damage(data))
    found(copy, manifest_name(1))


def test_an_edited_table(copy: Output) -> None:
    name = f"_embed/manifest/{newest(copy.store).manifest.table}"
    rows = parts(copy.store)
    rows[0]["rows_cut"] += 1
    put(copy.store, name, ipc_bytes(pa.Table.from_pylist(rows, schema=PART_TABLE)))
    assert len(found(copy, name, "not what was committed")) == 1
    (copy.store.root / name).unlink()
    assert len(found(copy, name, "gone")) == 1


def test_an_edited_plan(copy: Output) -> None:
    name = f"_embed/plan/{newest(copy.store).manifest.plan}"
    data = copy.store.read(name)
    put(copy.store, name, data.replace(b'"pack_tokens":2048', b'"pack_tokens":4096'))
    assert len(found(copy, name, "was edited")) == 1
    for damaged in (b"{", b"[]", b'{"plan":{}}', data.replace(b'"plan":{', b'"plan":{"x":1,')):
        put(copy.store, name, damaged)
        found(copy, name)
    (copy.store.root / name).unlink()
    found(copy, name, "gone")
    assert verify(copy.path, sample=3)["sample"] is None


def test_strays(copy: Output) -> None:
    first = parts(copy.store)[0]["path"]
    for name in ("data/notes.txt", "data/x/y.parquet", first.replace("-g000001", "-g000002")):
        (copy.store.root / name).parent.mkdir(exist_ok=True)
        put(copy.store, name, copy.store.read(first))
        assert len(found(copy, name, "stray")) == 1
        copy.store.delete(name)
    assert verify(copy.path)["ok"]


def test_slices_twice_or_never(copy: Output) -> None:
    rows = parts(copy.store)
    recommit(copy.store, [*rows, rows[0]])
    found(copy, "0.parquet", "rows 0 to 49 are in two parts")
    recommit(copy.store, rows[1:])
    found(copy, "0.parquet", "rows 0 to 49 are in no part")
    found(copy, "its units and the snapshot's parts differ")
    last = next(n for n, row in enumerate(rows) if row["slices"][0]["start"] == 50)
    recommit(copy.store, rows[:last] + rows[last + 1 :])
    found(copy, "0.parquet", "has 50 of its 80 rows")
    other = {**rows[0]["slices"][0], "version": "1"}
    recommit(copy.store, [{**rows[0], "slices": [other]}, *rows[1:]])
    found(copy, "0.parquet", "two versions")
    found(copy, rows[0]["path"], "unit key")


def test_a_vector_that_is_not_finite_or_of_a_wrong_norm(copy: Output) -> None:
    change_part(copy.store, 0, set_value("raw", 3, float("nan")))
    path = parts(copy.store)[0]["path"]
    assert len(found(copy, path, "1 rows have a raw that is not finite")) == 1
    change_part(copy.store, 1, set_value("small", 3, 2.0))
    assert found(copy, parts(copy.store)[1]["path"], "1 rows have a small of a wrong norm")


def test_rows_cut_and_schema(copy: Output) -> None:
    def cut(whole: pa.Table) -> pa.Table:
        at = whole.schema.get_field_index("n_chars_cut")
        field = whole.schema.field(at)
        return whole.set_column(at, field, pa.array([1] * len(whole), pa.int64()))

    change_part(copy.store, 0, cut)
    found(copy, parts(copy.store)[0]["path"], "rows say they were cut")
    change_part(copy.store, 1, lambda whole: whole.drop_columns(["title"]))
    found(copy, parts(copy.store)[1]["path"], "its schema is not that of the plan")
    change_part(copy.store, 2, lambda whole: whole.drop_columns(["small"]))
    found(copy, parts(copy.store)[2]["path"])
    change_part(copy.store, 3, lambda whole: whole.slice(1))
    found(copy, parts(copy.store)[3]["path"], "rows, ")


def test_counts_that_the_rows_do_not_give(copy: Output) -> None:
    """Tokens of distinct inputs, and rows whose input an earlier row has."""

    def another(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
        def change(whole: pa.Table) -> pa.Table:
            at = whole.schema.get_field_index(name)
            return whole.set_column(at, whole.schema.field(at), values.slice(0, len(whole)))

        return change

    change_part(copy.store, 0, another("n_tokens", pa.array([3] * 80, pa.int32())))
    found(copy, parts(copy.store)[0]["path"], "tokens is")
    change_part(copy.store, 1, another("input_hash", pa.array([bytes(16)] * 80, pa.binary(16))))
    found(copy, parts(copy.store)[1]["path"], "rows_deduplicated is")


def test_the_chain_of_manifests(two: Output) -> None:
    assert verify(two.path)["problems"] == []
    collect(two.store, 1)
    assert verify(two.path)["problems"] == []
    data = two.store.read(manifest_name(1))
    manifest = Manifest.from_bytes(data, "")
    put(two.store, manifest_name(1), replace(manifest, quarantined=["x"]).to_bytes())
    assert len(found(two, manifest_name(2), "predecessor")) == 1
    two.store.delete(manifest_name(1))
    assert len(found(two, manifest_name(1))) == 1


def test_replaced_parts_are_strays_once_gc_has_begun(two: Output) -> None:
    old = {path for path in two.store.list("data")} - {row["path"] for row in parts(two.store)}
    kept = {path: two.store.read(path) for path in old}
    assert old
    assert verify(two.path)["ok"]
    collect(two.store, 1)
    for path, data in kept.items():
        put(two.store, path, data)
        found(two, path, "stray")


def test_an_open_generation_is_no_stray(two: Output) -> None:
    shutil.copy(two.source / "0.parquet", two.source / "2.parquet")
    run_by_hand(two.spec, units=1)
    assert any("-g000003" in name for name in two.store.list("data"))
    assert verify(two.path)["problems"] == []


@pytest.mark.parametrize("column", [{}, {"pooling": "tokens"}], ids=["texts", "tokens"])
def test_a_part_of_huge_values_is_read_few_rows_at_once(
    tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch, column: dict,
) -> None:  # fmt: skip
    """Its kept texts, or its vectors, are more than a batch may have."""
    rows = ["apple bee"] * 200
    write_texts(tmp_path / "in" / "a.parquet", text=rows, body=["x" * 20_000] * 200)
    keep = [] if column else ["body"]
    spec = make_spec(
        tmp_path / "in", tiny_bert, tmp_path / "out", input={"keep": keep, "id": None},
        output={"columns": [{"name": "vector", **column}]},
    )  # fmt: skip
    run_by_hand(spec)
    limit, sizes = (400_000 if keep else 10_000), []

    def batches(file: Any) -> Any:
        for batch in right(file):
            sizes.append(batch.nbytes)
            yield batch

    right = verify_parts._batches
    monkeypatch.setattr(verify_parts, "_batches", batches)
    monkeypatch.setattr(verify_parts, "BATCH_BYTES", limit)
    assert verify(spec.output.path)["problems"] == []
    assert len(sizes) > 4
    assert max(sizes) <= 1.2 * limit
