"""Texts and ids that no one expects: each is a row like any other, and nowhere but in the parts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.commandline import Bench

STRANGE = {
    "combining marks": "e" + "\u0301" * 100_000,
    "joined emoji": "👩‍👩‍👧‍👦 🏳️‍🌈",
    "noncharacters": "\ufffe \uffff \U0010ffff",
    "private use": "\ue000 \U000f0000",
    "tags": "\U000e0001 \U000e0041",
    "byte order mark": "\ufeffapple",
    "bidi": "\u202eelppa\u202c \u2066x\u2069",
    "control characters": "a\x00b\x07c\x1b[31m d\x7f",
    "line ends": "a\r\nb\u2028c\u2029d",
    "special tokens": "[CLS] [SEP] [MASK] [PAD] <s> </s>",
    "no space in 200,000": "q" * 200_000,
    "another script": "слова которых нет в словаре",
    "page": "<script>alert(1)</script>{{ 7 * 7 }}",
    "sql": "'; DROP TABLE x; --",
    "formula": "=HYPERLINK(\"http://x\")",
}  # fmt: skip
SECRETS = [
    "AKIA" + "IOSFODNN7EXAMPLE",
    "hf_" + "a" * 34,
    "https://user:hush@example.test/x?sig=hush",
]


@pytest.fixture
def bench(tmp_path: Path, tiny_bert: Path, capfd, monkeypatch) -> Bench:
    (tmp_path / "in").mkdir()
    return Bench(tmp_path, tiny_bert, capfd, monkeypatch)


def run(bench: Bench, table: pa.Table, **fields: object) -> tuple[dict, pa.Table, str]:
    """The report, all rows of the parts, and what was said."""
    pq.write_table(table, bench.folder / "in" / "a.parquet")
    code, out, err = bench.run("--json", input__id="id", **fields)
    assert code == 0, err
    assert "Traceback" not in err
    tables = [pq.read_table(path) for path in bench.parts()]
    return json.loads(out), pa.concat_tables(tables), out + err


def test_a_strange_text_has_a_vector(bench: Bench) -> None:
    table = pa.table({"id": list(STRANGE), "text": list(STRANGE.values())})
    report, rows, _ = run(bench, table)
    assert rows["id"].to_pylist() == list(STRANGE)
    assert report["rows_rejected"] == 0
    assert min(rows["n_tokens"].to_pylist()) >= 2  # at the least, what stands around a text


def test_a_lone_surrogate_costs_its_row(bench: Bench) -> None:
    """As some writers encode a half of a pair of UTF-16: no UTF-8."""
    data = pa.array([b"apple", b"x\xed\xa0\x80y", b"\xf8\x88\x80\x80\x80", b"bee"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 4, data.buffers())
    report, rows, _ = run(bench, pa.table({"id": list("abcd"), "text": texts}))
    assert (rows["id"].to_pylist(), report["rejects"]) == (["a", "d"], {"BAD_UTF8": 2})


def test_rows_of_one_id_are_all_kept_in_order(bench: Bench) -> None:
    table = pa.table({"id": ["a", "a", "b", "a"], "text": ["apple", "bee", "sea", "apple"]})
    _, rows, _ = run(bench, table)
    assert rows["id"].to_pylist() == ["a", "a", "b", "a"]
    vectors = rows["vector"].to_pylist()
    assert vectors[0] == vectors[3] != vectors[1]


def test_an_id_of_a_megabyte_is_an_id(bench: Bench) -> None:
    table = pa.table({"id": ["x" * 1_000_000, "../../../etc/passwd"], "text": ["apple", "bee"]})
    _, rows, _ = run(bench, table)
    assert rows["id"].to_pylist() == table["id"].to_pylist()
    assert not list(bench.folder.rglob("passwd"))


def test_what_looks_like_a_key_in_a_text_is_written_nowhere(bench: Bench) -> None:
    """Nor any other text: rejects and logs have ids, places and codes."""
    texts = [*SECRETS, "quite unmistakable", SECRETS[0] + " " + "apple " * 300]
    table = pa.table({"id": [str(n) for n in range(len(texts))], "text": texts})
    _, _, said = run(bench, table, model__long_text="reject")
    written = b"".join(p.read_bytes() for p in (bench.folder / "out").rglob("*") if p.is_file())
    for word in [*SECRETS, "unmistakable"]:
        assert word not in said
        assert word.encode() not in written
