"""Files made to harm: they run nothing, unpack to no more than is allowed, and end in one line.

Each is read by a process of its own, which tells what became of it and how much memory it took.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
# Plans each spec, reads its first unit, and says for each: code or rows, and the peak of memory.
READER = """
import json, re, sys
for name in sys.argv[2].split():
    __import__(name)
from embedmill.pipeline.read import slices
slices.MAX_BYTES = int(sys.argv[1])
from embedmill.pipeline.plan.plan import make_plan
from embedmill.pipeline.read.unit import read_unit
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import EmbedmillError
from embedmill.schemas.spec_file.load import load_spec
for path in sys.argv[3:]:
    spec = load_spec(path)
    try:
        planned = make_plan(spec, open_store(spec.output.path))
        rows = len(read_unit(planned.plan, planned.units[0]).status_R)
        told = {"units": len(planned.units), "rows": rows}
    except EmbedmillError as error:
        told = {"code": error.code, "said": str(error)}
    status = open("/proc/self/status").read()  # rusage begins with what the parent has
    told["peak"] = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) << 10
    print(json.dumps(told), flush=True)
"""


@pytest.fixture
def read(tmp_path: Path, tiny_bert: Path):
    """read(table or bytes, text=..., unit_rows=...): what becomes of a shard; a list of many."""
    count = iter(range(100))

    def spec(unit_rows: int = 1000, **fields: Any) -> str:
        path = tmp_path / f"{next(count)}.yaml"
        path.write_text(yaml.safe_dump({
            "input": {"path": str(tmp_path / "in" / "*.parquet"), "text": "text", **fields},
            "model": {"name": str(tiny_bert)},
            "output": {"path": str(tmp_path / "out")},
            "run": {"device": "cpu", "unit_rows": unit_rows},
        }))  # fmt: skip
        return str(path)

    def run(table: pa.Table, *fields: dict, most: int = 64 * MIB, first: str = "", **how: Any):
        (tmp_path / "in").mkdir()
        pq.write_table(table, tmp_path / "in" / "a.parquet", **how)
        specs = [spec(**one) for one in fields or ({},)]
        command = [sys.executable, "-c", READER, str(most), first, *specs]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def same(value: str, rows: int) -> pa.Table:
    """One value in every row, which a dictionary holds once."""
    indices = pa.array(np.zeros(rows, np.int32))
    return pa.table({"text": pa.DictionaryArray.from_arrays(indices, pa.array([value]))})


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), "w")


EXTENSIONS = [
    "ray.data.arrow_pickled_object",
    "ray.data.arrow_tensor",
    "ray.data.arrow_tensor_v2",
    "arrow.py_extension_type",
]


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_type_runs_no_code(read, tmp_path: Path, name: str) -> None:
    """Ray's are registered, as in a worker; pickles are in its metadata and in its values."""
    marker = tmp_path / "ran"
    code = pickle.dumps(Payload(marker))
    field = pa.field("evil", pa.binary(), metadata={
        "ARROW:extension:name": name, "ARROW:extension:metadata": code
    })  # fmt: skip
    schema = pa.schema([pa.field("text", pa.string()), field])
    table = pa.Table.from_arrays([pa.array(["apple"]), pa.array([code])], schema=schema)
    beside, kept, text, key = read(
        table, {}, {"keep": ["evil"]}, {"text": "evil"}, {"id": "evil"}, first="ray.data"
    )
    assert not marker.exists()
    assert beside.get("rows") == 1 or beside["code"] == "NOT_PARQUET"
    assert {told["code"] for told in (kept, text, key)} <= {"COLUMN_TYPE", "NOT_PARQUET"}


def test_a_dictionary_of_one_entry_that_unpacks_to_20_gib(read, tmp_path: Path) -> None:
    whole, few = read(same("x" * MIB, 20_000), {"unit_rows": 20_000}, {"unit_rows": 16})
    assert (tmp_path / "in" / "a.parquet").stat().st_size < 100_000
    assert (whole["code"], few["rows"]) == ("UNIT_TOO_LARGE", 16)
    assert max(whole["peak"], few["peak"]) < 700 * MIB


def test_a_plain_column_of_a_page_that_unpacks_to_much(read, tmp_path: Path) -> None:
    table = pa.table({"text": ["x" * MIB] * 150})
    (told,) = read(table, compression="zstd", use_dictionary=False, data_page_size=16 * MIB)
    assert (tmp_path / "in" / "a.parquet").stat().st_size < 100_000
    assert told["code"] == "UNIT_TOO_LARGE"
    assert told["peak"] < 700 * MIB


def test_a_row_group_of_more_than_2_gib_of_text_is_read_in_units(read) -> None:
    (told,) = read(same("x" * MIB, 2200), {"unit_rows": 20}, row_group_size=2200)
    assert (told["units"], told["rows"]) == (110, 20)


def test_ten_million_rows_in_a_few_kilobytes_are_planned_by_their_number(read, tmp_path: Path):
    (told,) = read(same("apple", 10_000_000), {"unit_rows": 100_000}, row_group_size=10_000_000)
    assert (tmp_path / "in" / "a.parquet").stat().st_size < 100_000
    assert (told["units"], told["rows"]) == (100, 100_000)
    assert told["peak"] < 900 * MIB


def test_20_000_columns_cost_what_the_named_ones_cost(read) -> None:
    table = pa.table({"text": ["apple"], **{f"c{n}": [n] for n in range(20_000)}})
    assert read(table)[0]["rows"] == 1


def test_20_000_row_groups(read) -> None:
    table = pa.table({"text": [f"apple {n}" for n in range(20_000)]})
    assert read(table, {"unit_rows": 1000}, row_group_size=1)[0]["rows"] == 1000


def test_a_footer_of_8_mib_of_words(read) -> None:
    table = pa.table({"text": ["apple"]}).replace_schema_metadata({"words": "x" * (8 * MIB)})
    (told,) = read(table)
    assert told.get("rows") == 1 or told["code"] == "NOT_PARQUET"


def test_a_column_inside_another_is_missing_and_one_with_a_dot_is_a_column(read) -> None:
    inner = pa.array([{"b": "inner"}])
    (missing,) = read(pa.table({"a": inner, "text": ["x"]}), {"text": "a.b"})
    assert missing["code"] == "COLUMN_MISSING"


def test_a_column_whose_name_has_a_dot_is_not_the_one_inside_another(read) -> None:
    (told,) = read(pa.table({"a": [{"b": "inner"}], "a.b": ["outer"]}), {"text": "a.b"})
    assert told["rows"] == 1
