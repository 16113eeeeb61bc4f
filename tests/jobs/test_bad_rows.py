"""One bad row never stops a run: it is a reject with a code, an id and a place, and all add up."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.commandline import Bench

BAD = b"caf\xe9"
LONG = "apple " * 13_334  # 80,004 characters
# What comes in, and the code of what does not come out.
ROWS: list[tuple[bytes | None, str]] = [
    (b"apple", ""),
    (None, "NULL_TEXT"),
    (b"", "EMPTY_TEXT"),
    (b" \t\n", "EMPTY_TEXT"),
    (BAD, "BAD_UTF8"),
    (b"apple", ""),
    (LONG.encode(), ""),
    ("🍋 \u200b 你好".encode(), ""),
    (b"a\x00b", ""),
    (b"[CLS] [SEP] [MASK]", ""),
    (b"bee", ""),
]


def strings(values: list[bytes | None]) -> pa.Array:
    """A string column of bytes that need not be UTF-8."""
    array = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(array), array.buffers(), array.null_count)


@pytest.fixture
def bench(tmp_path: Path, tiny_bert: Path, write_texts, capfd, monkeypatch) -> Bench:
    """Two shards, of which the second has every kind of bad row."""
    write_texts(tmp_path / "in" / "a.parquet", text=["sea"] * 3, doc=["a0", "a1", "a2"])
    write_texts(
        tmp_path / "in" / "b.parquet", 4,
        text=strings([text for text, _ in ROWS]),
        doc=[f"b{n}" for n in range(len(ROWS))],
    )  # fmt: skip
    return Bench(tmp_path, tiny_bert, capfd, monkeypatch)


def finished(bench: Bench, **fields: object) -> dict:
    """The report of a run that ends well."""
    code, out, err = bench.run("--json", **{"input__id": "doc", **fields})
    assert code == 0, err
    return json.loads(out)


def parts(bench: Bench) -> dict[str, list]:
    tables = [pq.read_table(path) for path in bench.parts()]
    return pa.concat_tables(tables).to_pydict()


def rejects(bench: Bench) -> list[tuple]:
    """(id, shard, row, code) of every reject."""
    found = []
    for path in sorted((bench.folder / "out" / "_embed" / "rejects").rglob("*.arrow")):
        for row in pa.ipc.open_file(path.read_bytes()).read_all().to_pylist():
            found.append((row["id"], Path(row["shard"]).name, row["row"], row["code"]))
    return sorted(found, key=lambda reject: (reject[1], reject[2]))


@pytest.mark.parametrize("unit_rows", [2, 5, 1000])
def test_bad_rows_are_rejects_and_all_others_have_a_vector(bench: Bench, unit_rows):
    report = finished(bench, run__unit_rows=unit_rows)
    expected = [(f"b{n}", "b.parquet", n, code) for n, (_, code) in enumerate(ROWS) if code]
    assert expected == rejects(bench)
    out = parts(bench)
    good = ["a0", "a1", "a2", *(f"b{n}" for n, (_, code) in enumerate(ROWS) if not code)]
    assert good == sorted(out["doc"], key=good.index)
    assert report["rows_in"] == len(good) + len(expected) == 3 + len(ROWS)
    assert report["rows_rejected"] == len(expected)
    assert report["rejects"] == {"BAD_UTF8": 1, "EMPTY_TEXT": 2, "NULL_TEXT": 1}
    assert report["rows_encoded"] + report["rows_deduplicated"] == len(good)


def test_equal_rows_in_a_unit_are_encoded_once_and_have_the_same_vector(bench: Bench):
    report = finished(bench, run__unit_rows=1000)
    assert report["rows_deduplicated"] == 2 + 1
    out = parts(bench)
    vector = dict(zip(out["doc"], out["vector"], strict=True))
    assert vector["b0"] == vector["b5"]
    assert vector["a0"] == vector["a1"] == vector["a2"]
    assert vector["b0"] != vector["b10"]


def test_a_row_of_80_000_characters_is_cut_and_says_how_much(bench: Bench):
    report = finished(bench)
    out = parts(bench)
    place = out["doc"].index("b6")
    assert (report["rows_cut"], out["n_tokens"][place]) == (1, 128)
    assert out["n_chars_cut"][place] == len(LONG) - len(" ".join(["apple"] * 126))
    assert [n for n in out["n_chars_cut"] if n] == [out["n_chars_cut"][place]]


def test_long_text_reject_makes_it_a_reject(bench: Bench):
    report = finished(bench, model__long_text="reject")
    assert report["rejects"]["TEXT_TOO_LONG"] == 1
    assert ("b6", "b.parquet", 6, "TEXT_TOO_LONG") in rejects(bench)
    assert "b6" not in parts(bench)["doc"]
    assert report["rows_cut"] == 0


def test_on_empty_encode_gives_blank_rows_a_vector(bench: Bench):
    report = finished(bench, input__on_empty="encode")
    assert report["rejects"] == {"BAD_UTF8": 1, "NULL_TEXT": 1}
    assert {"b2", "b3"} <= set(parts(bench)["doc"])


def test_without_an_id_column_a_reject_has_the_default_id(bench: Bench):
    finished(bench, input__id=None)
    assert ("b.parquet#4", "b.parquet", 4, "BAD_UTF8") in rejects(bench)


def test_ids_that_are_null_or_no_utf8_are_rejects_without_an_id(bench: Bench, write_texts):
    write_texts(
        bench.folder / "in" / "b.parquet", text=["x", "y", "z"], doc=strings([None, BAD, b"ok"])
    )
    finished(bench)
    assert rejects(bench) == [
        (None, "b.parquet", 0, "NULL_ID"),
        (None, "b.parquet", 1, "BAD_UTF8"),
    ]


def test_ids_are_data_whatever_they_hold(bench: Bench, write_texts):
    ids = ["../../x", "a\nb", "'; drop table", "x" * 100_000, "", "\u202e"]
    write_texts(bench.folder / "in" / "b.parquet", text=["x"] * 6, doc=ids)
    finished(bench)
    assert set(ids) <= set(parts(bench)["doc"])


def test_a_corpus_of_bad_rows_alone_has_a_snapshot_without_a_vector(bench: Bench, write_texts):
    for name in ("a", "b"):
        write_texts(
            bench.folder / "in" / f"{name}.parquet",
            text=pa.array([None, ""], pa.string()), doc=["1", "2"],
        )  # fmt: skip
    report = finished(bench)
    assert (report["rows_in"], report["rows_rejected"], report["rows_encoded"]) == (4, 4, 0)
    assert parts(bench)["doc"] == []


def test_a_corpus_without_a_row_has_a_snapshot(bench: Bench, write_texts):
    empty = pa.array([], pa.string())
    for name in ("a", "b"):
        write_texts(bench.folder / "in" / f"{name}.parquet", text=empty, doc=empty)
    assert finished(bench)["rows_in"] == 0
    assert finished(bench)["manifest"] == "_embed/manifest/000001.json"


def test_pairs_with_an_empty_second_text_are_encoded_as_single_ones(bench: Bench, write_texts):
    texts = ["apple", "apple", "apple", "apple"]
    (bench.folder / "in" / "a.parquet").unlink()
    write_texts(
        bench.folder / "in" / "b.parquet",
        text=texts, other=["bee", None, "", " "], doc=["0", "1", "2", "3"],
    )  # fmt: skip
    finished(bench, input__pair="other")
    assert parts(bench)["n_tokens"] == [5, 3, 3, 4]


@pytest.mark.parametrize(("allowed", "code"), [(0.01, 5), (0.5, 0)])
def test_too_many_faults_end_the_run_but_leave_its_parts(
    bench: Bench, write_texts, monkeypatch, allowed, code
):
    monkeypatch.setattr("embedmill.pipeline.run.receipt.BUDGET_FROM_ROWS", 20)
    faulty = [b"sea"] * 30 + [BAD] * 10
    write_texts(bench.folder / "in" / "b.parquet", text=strings(faulty), doc=["d"] * 40)
    fields = {"output__quality": {"fault_rate": allowed}, "run__unit_rows": 10, "input__id": "doc"}
    got, _, err = bench.run(**fields)
    assert code == got
    assert ("FAULT_RATE" in err) == (code == 5)
    assert len(bench.parts()) >= 3
    if code:
        again = bench.run(**fields)
        assert again[0] == 5 and "FAULT_RATE" in again[2], "what is done already counts, too"
        assert not (bench.folder / "out" / "_embed" / "manifest" / "000001.json").exists()
        fields["output__quality"] = {"fault_rate": 1.0}
        assert bench.run(**fields)[0] == 0, "a higher rate resumes"


def test_a_few_rows_never_trip_the_fault_budget(bench: Bench, write_texts):
    """One bad row of ten is no trend: the budget counts from 10,000 rows on."""
    from embedmill.pipeline.run.receipt import BUDGET_FROM_ROWS

    assert BUDGET_FROM_ROWS == 10_000
    faulty = strings([BAD] * 100)
    write_texts(bench.folder / "in" / "b.parquet", text=faulty, doc=["d"] * 100)
    assert finished(bench)["rejects"]["BAD_UTF8"] == 100


def test_rows_that_a_policy_rejects_are_no_faults(bench: Bench, write_texts, monkeypatch):
    monkeypatch.setattr("embedmill.pipeline.run.receipt.BUDGET_FROM_ROWS", 10)
    nulls = pa.array([None] * 50, pa.string())
    write_texts(bench.folder / "in" / "b.parquet", text=nulls, doc=["d"] * 50)
    assert finished(bench)["rows_rejected"] == 50
